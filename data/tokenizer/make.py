"""Makes CLIP's vocab.json and merges.txt from the byte-pair list that OpenAI's CLIP ships.

    python data/tokenizer/make.py bpe_simple_vocab_16e6.txt.gz

The list is in the PyPI package openai-clip 1.0.1 (MIT): clip/bpe_simple_vocab_16e6.txt.gz
"""

import gzip
import json
import pathlib
import sys


def byte_letters():
    """One printable letter for each byte, GPT-2's way: printable Latin-1 stands for itself."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in own]
    return [chr(b) for b in own] + [chr(256 + i) for i in range(len(others))]


def main(source):
    here = pathlib.Path(__file__).parent
    lines = gzip.open(source, "rt", encoding="utf-8").read().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == 49408

    def write(name, text):
        (here / name).write_text(text, encoding="utf-8")

    compact = {"ensure_ascii": False, "separators": (",", ":")}
    write("vocab.json", json.dumps(vocabulary, **compact))
    write("merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    start, end = "<|startoftext|>", "<|endoftext|>"
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    write("special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    config = {
        **special,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "tokenizer_class": "CLIPTokenizer",
    }
    write("tokenizer_config.json", json.dumps(config, indent=2) + "\n")


main(sys.argv[1])
