"""diffusers as it is."""

import peer

if __name__ == "__main__":
    peer.serve(lambda order: peer.plain)
