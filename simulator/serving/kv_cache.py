"""The paged KV cache of a replica, by counting: how many blocks are held, not which."""

from __future__ import annotations

__all__ = ["BlockPool"]


class BlockPool:
    """Blocks of ``block_size`` tokens, handed out and taken back.

    Which physical block a request holds never matters to time or memory, so only numbers are kept.

    Parameters
    ----------
    total
        Blocks there are.
    block_size
        Tokens in one block.
    watermark
        Share of the blocks that an admission leaves free, so that running requests can grow
        (0.01 in vLLM; Kwon et al., "Efficient Memory Management for Large Language Model Serving with
        PagedAttention", SOSP 2023, and vLLM's block manager).
    """

    __slots__ = ("block_size", "peak", "total", "used", "watermark_blocks")

    def __init__(self, total: int, block_size: int, watermark: float = 0.01) -> None:
        if total < 1 or block_size < 1:
            raise ValueError(f"a KV cache needs blocks, and tokens in them; have {total} blocks of {block_size} tokens")
        self.total = total
        self.block_size = block_size
        self.watermark_blocks = int(watermark * total)
        self.used = 0
        self.peak = 0

    @property
    def free(self) -> int:
        """Blocks nobody holds."""
        return self.total - self.used

    def blocks(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens of one request fill or begin."""
        return -(-tokens // self.block_size)

    def allocate(self, blocks: int) -> None:
        """Hand out ``blocks``.

        Raises
        ------
        RuntimeError
            If there are not so many: the caller has to ask for :attr:`free` first.
        """
        self.used += blocks
        if self.used > self.total:
            raise RuntimeError(f"{self.used} KV blocks handed out of {self.total}")
        if self.used > self.peak:
            self.peak = self.used

    def release(self, blocks: int) -> None:
        """Take ``blocks`` back."""
        self.used -= blocks
        if self.used < 0:
            raise RuntimeError("more KV blocks taken back than handed out")

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest request that can ever run to its end: alone, above the watermark, a block to spare."""
        return (self.total - max(self.watermark_blocks, 1)) * self.block_size
