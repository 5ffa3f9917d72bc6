"""The norms of the heads, where they have any, and the rotation, in place: a program has some heads of one token."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["positions"])
def rotate_heads(
    qkv, q_weight, k_weight, cosines, sines, positions, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, HAS_NORM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Queries and keys of qkv [T, (HEADS + 2 · KV_HEADS) · WIDTH]; values stay. BLOCK covers half a head."""
    token = tl.program_id(0)
    heads = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    columns = tl.arange(0, BLOCK)
    half: tl.constexpr = WIDTH // 2
    in_half = columns < half
    inside = (heads < HEADS + KV_HEADS)[:, None] & in_half[None, :]
    first = qkv + token.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * WIDTH) + heads[:, None] * WIDTH + columns[None, :]
    a = tl.load(first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(first + half, mask=inside, other=0.0).to(tl.float32)
    if HAS_NORM:
        factor = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / WIDTH + eps)
        is_query = (heads < HEADS)[:, None]
        weight_a = tl.where(is_query, _row(q_weight, columns, in_half), _row(k_weight, columns, in_half))
        weight_b = tl.where(is_query, _row(q_weight + half, columns, in_half), _row(k_weight + half, columns, in_half))
        a, b = a * factor[:, None] * weight_a, b * factor[:, None] * weight_b
    angle = tl.load(positions + token).to(tl.int64) * half
    cosine, sine = _row(cosines + angle, columns, in_half), _row(sines + angle, columns, in_half)
    tl.store(first, (a * cosine - b * sine).to(qkv.dtype.element_ty), mask=inside)
    tl.store(first + half, (b * cosine + a * sine).to(qkv.dtype.element_ty), mask=inside)


@triton.jit
def _row(pointer, columns, inside):
    """[1, BLOCK]."""
    return tl.load(pointer + columns, mask=inside, other=0.0)[None, :]
