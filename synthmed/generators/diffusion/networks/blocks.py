"""Building blocks of Medfusion's networks, under its parameter names.

Shapes: feature maps are [N, C, H, W] float, embeddings [N, E] float. All convolutions have a bias and a padding of
half their kernel; strided ones too. Source of every figure here: the published Medfusion checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv(nn.Conv2d):
    """A 1 x 1 convolution, computed as a matrix product.

    On the CPU the library behind `conv2d` divides the sums of 1 x 1 kernels among threads, so that results would differ
    with their number; its 3 x 3 kernels and matrix products do not.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        product = self.weight.flatten(1) @ x.flatten(2)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.reshape(len(x), -1, *x.shape[2:])


class Conv(nn.Module):
    """A convolution whose parameters are named `conv.*`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = (
            PointwiseConv(in_channels, out_channels)
            if kernel_size == 1
            else nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """3 x 3 convolution, group norm, Swish."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm = nn.GroupNorm(norm_groups, out_channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """A basic block beside a skip: the identity, or a 1 x 1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.basic_block = BasicBlock(in_channels, out_channels, norm_groups)
        self.conv_res = nn.Identity() if in_channels == out_channels else PointwiseConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_block(x) + self.conv_res(x)  # type: ignore[no-any-return]


class UnetResBlock(nn.Module):
    """Two residual blocks; an embedding, where there is one, is added between them."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int, emb_channels: int | None = None) -> None:
        super().__init__()
        second = ResidualBlock(out_channels, out_channels, norm_groups)
        # The block starts as its first half: Medfusion's own initialisation.
        nn.init.zeros_(second.basic_block.conv.weight)
        if second.basic_block.conv.bias is not None:
            nn.init.zeros_(second.basic_block.conv.bias)
        self.block_seq = nn.ModuleList([ResidualBlock(in_channels, out_channels, norm_groups), second])
        if emb_channels is not None:
            self.local_embedder = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        x = self.block_seq[0](x)
        if emb is not None:
            x = x + self.local_embedder(emb)[:, :, None, None]
        return self.block_seq[1](x)  # type: ignore[no-any-return]


class BasicDown(nn.Module):
    """A strided 3 x 3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.down_op = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_op(x)  # type: ignore[no-any-return]


class BasicUp(nn.Module):
    """Nearest-exact upsampling, then a 3 x 3 convolution.

    A side that the stride does not divide is rounded up on the way down, so that 25 gives 13 and 13 gives 26; `size`
    cuts off the rest. Medfusion's own code fails there. Cutting, not resizing, keeps row i coming from row i // stride
    as in training; it is done before the convolution, which then sees the border as the ones on the way down do.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.up_op = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        if self.stride != 1:
            x = functional.interpolate(x, scale_factor=float(self.stride), mode="nearest-exact")
        if size is not None:
            x = x[..., : size[0], : size[1]]
        return self.up_op(x)  # type: ignore[no-any-return]


class DownBlock(nn.Module):
    """A strided convolution that changes the width, then a residual block."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm_groups: int, emb_channels: int | None = None
    ) -> None:
        super().__init__()
        self.down_op = BasicDown(in_channels, out_channels, stride)
        self.conv_block = UnetResBlock(out_channels, out_channels, norm_groups, emb_channels)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv_block(self.down_op(x), emb)  # type: ignore[no-any-return]


class UpBlock(nn.Module):
    """Upsampling that changes the width, an added skip where there is one, then a residual block."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, norm_groups: int, emb_channels: int | None = None
    ) -> None:
        super().__init__()
        self.up_op = BasicUp(in_channels, out_channels, stride)
        self.conv_block = UnetResBlock(out_channels, out_channels, norm_groups, emb_channels)

    def forward(self, x: Tensor, skip: Tensor | None = None, emb: Tensor | None = None) -> Tensor:
        x = self.up_op(x, None if skip is None else skip.shape[2:])
        if skip is not None:
            x = x + skip
        return self.conv_block(x, emb)  # type: ignore[no-any-return]


class SinusoidalEmbedding(nn.Module):
    """Sines, then cosines, of a timestep at geometrically spaced frequencies: t [N] -> [N, size]."""

    frequencies: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        # On the CPU even where the network is built without memory: weights from a file can replace its parameters,
        # but no file holds this.
        logarithm = torch.log(torch.tensor(10000.0, device="cpu"))
        exponents = torch.arange(half, device="cpu") * -(logarithm / (half - 1))
        self.register_buffer("frequencies", torch.exp(exponents), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t[:, None].float() * self.frequencies[None].to(t.device)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Embedding of the integer timestep: t [N] int64 -> [N, E]."""

    def __init__(self, emb_channels: int) -> None:
        super().__init__()
        size = emb_channels // 4
        self.time_emb = nn.Sequential(
            SinusoidalEmbedding(size), nn.Linear(size, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

    def forward(self, t: Tensor) -> Tensor:
        return self.time_emb(t)  # type: ignore[no-any-return]


class LabelEmbedding(nn.Module):
    """Embedding of the class label: labels [N] int64 -> [N, E]; the null label, below zero, adds nothing."""

    def __init__(self, num_classes: int, emb_channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, emb_channels)

    def forward(self, labels: Tensor) -> Tensor:
        known = (labels >= 0)[:, None]
        return self.embedding(labels.clamp(min=0)) * known  # type: ignore[no-any-return]
