"""KV cache policies: how many blocks a request holds, and from when on."""
