"""Says whether libtorch can use CUDA, in one line: `usable ...`, `library ...` or `driver ...`.

    cuda.py FOLDER_OF_LIBTORCH'S_LIBRARIES
"""

import ctypes
import sys
from pathlib import Path

libraries = Path(sys.argv[1])
try:
    ctypes.CDLL(str(libraries / "libtorch_cuda.so"), mode=ctypes.RTLD_GLOBAL)
except OSError as error:
    print("library", str(error).replace(f"{libraries}/", ""))
    sys.exit()

# libtorch_cuda is loaded: what is left to ask is the driver.
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    print("driver", error)
    sys.exit()
status = driver.cuInit(0)
if status != 0:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    print("driver", (text.value or b"unknown error").decode(), f"(cuInit: {status})")
    sys.exit()
count = ctypes.c_int()
driver.cuDeviceGetCount(ctypes.byref(count))
names = []
for index in range(count.value):
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), index)
    names.append(name.value.decode())
print(*(["usable", ", ".join(names)] if names else ["driver", "it reports no GPU"]))
