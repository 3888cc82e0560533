"""A few stored gradients, and how a tensor is freed of its part in their span: small algebra, no trainer.

For every group of tensors the m stored gradients are the rows of G (m, n). All that a projection needs is the Gram matrix
K = G G^T and, each step, the dots b = G x: `x' = x - G^T c`, where c = M b (two-sided) or c = the non-negative least squares
of K and b (one-sided). Both are computed for all groups at once in float64, from tables as small as (groups, m).

    G groups      M stored gradients      T tensors
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from untax.gradients.common import Parameters, Removed, small

__all__ = ["Subspace", "nonnegative", "orthonormal"]

Side = Literal["one", "two"]

#: up to so many stored gradients every active set is tried, without waiting for the device
TRIED = 4
CHUNK = 2**22


class Subspace:
    """The stored gradients of a view of parameters, on the parameters' device and cut as they are.

    `sizes` says how many directions belong to each named set, in order. Store each with `store`, then call `settle`.
    """

    def __init__(
        self,
        view: Parameters,
        sizes: Sequence[int],
        *,
        side: Side = "one",
        energy: float = 0.95,
        drop: float = 0.05,
        keep_in: torch.dtype | None = None,
    ) -> None:
        self.view, self.sizes, self.side, self.energy, self.drop = view, tuple(sizes), side, energy, drop
        self.kept = [
            torch.zeros(self.directions, p.numel(), dtype=keep_in or _kept_dtype(p.dtype), device=p.device)
            for p in view.values()
        ]
        self.gram_GMM = view.table(len(view.groups), self.directions, self.directions)
        self.map_GMM = self.gram_GMM.clone()
        self.silent = 0

    @property
    def directions(self) -> int:
        """How many gradients are stored, over all sets."""
        return sum(self.sizes)

    def rows(self, direction: int) -> list[Tensor] | None:
        """Where a gradient is stored, if it is kept in float32 throughout: it may be summed up in place."""
        kept = [kept[direction] for kept in self.kept]
        return kept if all(row.dtype == torch.float32 for row in kept) else None

    def store(self, direction: int, gradients: Sequence[Tensor]) -> None:
        """Keep one gradient (local parts, any dtype, one per tensor of the view)."""
        for kept, gradient in zip(self.kept, gradients, strict=True):
            if gradient.data_ptr() != kept[direction].data_ptr():
                kept[direction].copy_(gradient.reshape(-1))

    def settle(self) -> None:
        """Make the Gram matrices, and the bases of a two-sided projection, from what is stored. One all-reduce."""
        gram_TMM = torch.stack([_gram(kept) for kept in self.kept]) * self.view.share_T[:, None, None]
        gram_TMM = self.view.sum_over_processes(gram_TMM)
        #: tensors for which every stored gradient is exactly zero: nothing holds them until the next refresh
        self.silent = int((gram_TMM.diagonal(dim1=1, dim2=2).sum(1) == 0).sum())
        self.gram_GMM = self.view.by_group(gram_TMM)
        if self.side == "two":
            self.map_GMM = orthonormal(self.gram_GMM, self.sizes, energy=self.energy, drop=self.drop)

    def project_(
        self,
        tensors: Sequence[Tensor | None],
        *,
        before: Sequence[Tensor] | None = None,
        descends: bool = False,
        strength: float = 1.0,
    ) -> Removed:
        """Free the tensors, in place, of their part in the stored gradients. One all-reduce.

        With `before`, what is projected is the change `tensors - before`, and the tensors become `before` + the projected change;
        `before` is used up.
        `descends`: the tensors are gradients, which a step follows downhill; otherwise they are the step itself.
        """
        flat = [None if tensor is None else tensor.contiguous().view(-1) for tensor in tensors]
        table_GN = self._dots(flat, None if before is None else [tensor.contiguous().view(-1) for tensor in before])
        b_GM, whole_G = table_GN[:, :-1], table_GN[:, -1]
        steps_GM = -b_GM if descends else b_GM
        c_GM = self._coefficients(steps_GM)
        wrote_GM = -c_GM if descends else c_GM
        if strength:
            self._subtract_(flat, strength * wrote_GM)
            for tensor, written in zip(tensors, flat, strict=True):
                if tensor is not None and written is not None and not tensor.is_contiguous():
                    tensor.copy_(written.view_as(tensor))
        part = strength**2 * (c_GM * (self.gram_GMM @ c_GM[..., None])[..., 0]).sum()
        return Removed(whole_G.sum(), part, self._conflicts(steps_GM))

    @torch.no_grad()
    def add_(self, tensors: Sequence[Tensor | None], share: float) -> None:
        """Add the sum of all stored gradients, times `share`, to the tensors."""
        for tensor, kept in zip(tensors, self.kept, strict=True):
            if tensor is not None:
                tensor.add_(kept.float().sum(0).view_as(tensor).to(tensor.dtype), alpha=share)

    def _dots(self, tensors: Sequence[Tensor | None], before: Sequence[Tensor] | None) -> Tensor:
        """Dots with every stored gradient and, last, the squared norm, by group (G, M + 1)."""
        table_TN = torch.zeros(len(self.kept), self.directions + 1, device=self.view.device)
        there = [i for i, tensor in enumerate(tensors) if tensor is not None]
        now = [tensor for tensor in tensors if tensor is not None]
        then = None if before is None else [before[i] for i in there]
        if all(tensor.dtype == torch.float32 for tensor in (*now, *(then or ()))):
            if then is not None:
                # into what is used up anyway: fresh tensors would cost more than all sums together
                torch._foreach_sub_(then, now)
            changes = then or now  # of `before` minus the tensors, whose dots have the other sign
            for i, change in zip(there, changes, strict=True):
                _products_(table_TN[i, :-1], self.kept[i], change)
            if changes:
                table_TN[there, -1] = torch.stack(torch._foreach_norm(changes)).square()
            if then is not None:
                table_TN[:, :-1].neg_()
        else:
            for k, i in enumerate(there):
                for piece in _pieces(self.kept[i]):
                    change = now[k][piece].float() - (0.0 if then is None else then[k][piece].float())
                    _products_(table_TN[i, :-1], self.kept[i][:, piece], change)
                    table_TN[i, -1] += change.dot(change)
        return self.view.sum_over_processes(self.view.by_group(small(table_TN) * self.view.share_T[:, None]))

    def _coefficients(self, steps_GM: Tensor) -> Tensor:
        if self.side == "two":
            return (self.map_GMM @ steps_GM[..., None])[..., 0]
        return nonnegative(self.gram_GMM, steps_GM)

    def _subtract_(self, tensors: Sequence[Tensor | None], c_GM: Tensor) -> None:
        c_TM = c_GM.float()[self.view.group_T]
        # one-sided, many have nothing to lose; a device would have to be waited for to know
        wanted = c_TM.any(1).tolist() if c_TM.device.type == "cpu" else [True] * len(c_TM)
        for tensor, kept, c_M, some in zip(tensors, self.kept, c_TM.unbind(), wanted, strict=True):
            if tensor is None or not some:
                continue
            if tensor.dtype == kept.dtype == torch.float32:
                tensor.addmv_(kept.T, c_M, alpha=-1)
                continue
            for piece in _pieces(kept):
                left = tensor[piece].float()
                for row, c in zip(kept[:, piece], c_M, strict=True):
                    left.addcmul_(row, c, value=-1)
                tensor[piece] = left

    def _conflicts(self, steps_GM: Tensor) -> Tensor:
        by_set = torch.stack([part.sum(-1) for part in steps_GM.split(self.sizes, dim=-1)], dim=-1)
        heard_G = self.gram_GMM.diagonal(dim1=1, dim2=2).sum(-1) > 0
        return ((by_set > 0).any(-1) & heard_G).sum() / heard_G.sum().clamp_min(1)


def _kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """Gradients are kept as the parameter is; half precision has too little range for them."""
    return torch.bfloat16 if dtype == torch.float16 else dtype


def _gram(kept_MN: Tensor) -> Tensor:
    """K = G G^T in float64: with nearly collinear rows, float32 sums would show in what is left of a projection."""
    width = max(1, CHUNK // max(1, len(kept_MN)))
    gram = small(torch.zeros(len(kept_MN), len(kept_MN), device=kept_MN.device))
    for at in range(0, kept_MN.shape[1], width):
        part = small(kept_MN[:, at : at + width])
        gram += part @ part.T
    return gram


def _pieces(kept_MN: Tensor) -> list[slice]:
    """The length of a tensor in pieces: what is computed of one is never as large as the model's largest tensor."""
    return [slice(at, at + CHUNK) for at in range(0, kept_MN.shape[1], CHUNK)]


def _products_(row_M: Tensor, kept_MN: Tensor, change_N: Tensor) -> None:
    """Add the dots of a change with each stored gradient."""
    for piece in _pieces(kept_MN):
        if kept_MN.dtype == torch.float32 and kept_MN.device.type == "cpu":
            row_M.addmv_(kept_MN[:, piece], change_N[piece])
        else:
            # elsewhere a product of few long rows with a vector keeps only as many units busy as there are rows
            for j, kept_N in enumerate(kept_MN[:, piece]):
                row_M[j] += kept_N.float().dot(change_N[piece])


# --------------------------------------------------------------------------- small algebra, all groups at once


def orthonormal(gram_GMM: Tensor, sizes: Sequence[int], *, energy: float = 0.95, drop: float = 0.05) -> Tensor:
    """M (G, M, M) with G^T M G the orthogonal projection onto the span of the kept directions.

    Of each set, the leading eigen-directions of its block of the Gram matrix that hold `energy` of its trace; then Gram-Schmidt
    over the sets in order, dropping what has less than `drop` of its norm left.
    """
    groups, m, _ = gram_GMM.shape
    basis_GMR = gram_GMM.new_zeros(groups, m, m)
    at = 0
    for size in filter(None, sizes):
        block = gram_GMM[:, at : at + size, at : at + size]
        values_GS, vectors_GSS = torch.linalg.eigh(block)
        values_GS, vectors_GSS = values_GS.flip(-1).clamp_min(0), vectors_GSS.flip(-1)
        total_G1 = values_GS.sum(-1, keepdim=True)
        reached_GS = values_GS.cumsum(-1) - values_GS  # energy of the directions before this one
        floor_G1 = total_G1 * torch.finfo(values_GS.dtype).eps * 16
        kept_GS = (values_GS > floor_G1) & (reached_GS < energy * total_G1)
        for j in range(size):
            a_GM = gram_GMM.new_zeros(groups, m)
            a_GM[:, at : at + size] = vectors_GSS[..., j] / values_GS[:, j, None].clamp_min(1e-300).sqrt()
            a_GM = torch.where(kept_GS[:, j, None], a_GM, 0.0)
            basis_GMR[:, :, at + j] = _orthogonal(gram_GMM, basis_GMR, a_GM, drop)
        at += size
    return basis_GMR @ basis_GMR.mT


def _orthogonal(gram_GMM: Tensor, basis_GMR: Tensor, a_GM: Tensor, drop: float) -> Tensor:
    """A unit direction freed of the basis and made a unit again, or zero where too little of it is left."""
    for _ in range(2):  # twice is enough (Kahan and Parlett)
        inner_GR = (basis_GMR.mT @ (gram_GMM @ a_GM[..., None]))[..., 0]
        a_GM = a_GM - (basis_GMR @ inner_GR[..., None])[..., 0]
    norm_G = (a_GM * (gram_GMM @ a_GM[..., None])[..., 0]).sum(-1).clamp_min(0).sqrt()
    return torch.where(norm_G[:, None] >= drop, a_GM / norm_G[:, None].clamp_min(1e-300), 0.0)


def nonnegative(gram_GMM: Tensor, b_GM: Tensor) -> Tensor:
    """lambda >= 0 (G, M) that minimises 1/2 lambda^T K lambda - lambda^T b: the least correction after which no dot is positive.

    Source: Lawson and Hanson 1974, chapter 23; in the Gram matrix as in Lopez-Paz and Ranzato 2017 (GEM), eq. 11.
    """
    norm_GM = gram_GMM.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    heard_GM = norm_GM > 0
    scale_GM = torch.where(heard_GM, norm_GM, 1.0)
    k_GMM = gram_GMM / (scale_GM[:, :, None] * scale_GM[:, None, :])
    b_GM = torch.where(heard_GM, b_GM / scale_GM, 0.0)
    if b_GM.shape[1] <= 1:
        found_GM = b_GM.clamp_min(0)
    elif b_GM.shape[1] <= TRIED:
        found_GM = _tried(k_GMM, b_GM, heard_GM)
    else:
        found_GM = _active_set(k_GMM, b_GM, heard_GM)
    return found_GM / scale_GM


def _solve(k_GMM: Tensor, b_GM: Tensor, active_GM: Tensor) -> tuple[Tensor, Tensor]:
    """The solution with only the active ones free, and whether they are independent enough to have one."""
    eye = torch.eye(k_GMM.shape[-1], dtype=k_GMM.dtype, device=k_GMM.device)
    both = active_GM[:, :, None] & active_GM[:, None, :]
    factor, info = torch.linalg.cholesky_ex(torch.where(both, k_GMM, eye))
    # a pivot that is all rounding: its direction adds nothing to the others
    sound = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1) > 1e-7).all(-1)
    factor = torch.where(sound[:, None, None], factor, eye)
    wanted = torch.where(active_GM, b_GM, 0.0)[..., None]
    return torch.cholesky_solve(wanted, factor)[..., 0], sound


def _tried(k_GMM: Tensor, b_GM: Tensor, heard_GM: Tensor) -> Tensor:
    """Every active set, and of all solutions the one that breaks the conditions of the optimum least."""
    groups, m = b_GM.shape
    sets = list(itertools.product((False, True), repeat=m))
    active_AM = torch.tensor(sets, device=b_GM.device)
    active = active_AM.repeat(groups, 1)  # (G A, M)
    k, b = k_GMM.repeat_interleave(len(sets), 0), b_GM.repeat_interleave(len(sets), 0)
    found, sound = _solve(k, b, active)
    left = b - (k @ found[..., None])[..., 0]
    broken = torch.maximum((-found).clamp_min(0).amax(-1), torch.where(active, 0.0, left.clamp_min(0)).amax(-1))
    usable = sound & ~(active & ~heard_GM.repeat_interleave(len(sets), 0)).any(-1)
    broken = torch.where(usable, broken, torch.inf).view(groups, -1)
    best = broken.argmin(-1)
    return found.view(groups, len(sets), m)[torch.arange(groups, device=b.device), best].clamp_min(0)


def _active_set(k_GMM: Tensor, b_GM: Tensor, heard_GM: Tensor) -> Tensor:
    """Lawson and Hanson's active sets, all groups in step."""
    found, active, barred = torch.zeros_like(b_GM), torch.zeros_like(heard_GM), ~heard_GM
    enough = 1e-12 * b_GM.abs().amax(-1, keepdim=True)
    for _ in range(4 * b_GM.shape[1]):
        left = b_GM - (k_GMM @ found[..., None])[..., 0]
        wanted = torch.where(active | barred, -torch.inf, left)
        best = wanted.argmax(-1, keepdim=True)
        enters = torch.zeros_like(active).scatter_(1, best, wanted.gather(1, best) > enough)
        if not bool(enters.any()):
            break
        wider = active | enters
        _, sound = _solve(k_GMM, b_GM, wider)
        barred = barred | (enters & ~sound[:, None])
        active = torch.where(sound[:, None], wider, active)
        found, active = _feasible(k_GMM, b_GM, found, active)
    return found


def _feasible(k_GMM: Tensor, b_GM: Tensor, found: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Move to the solution of the active set, giving up what would turn negative on the way."""
    while True:
        goal, _ = _solve(k_GMM, b_GM, active)
        negative = active & (goal <= 0)
        if not bool(negative.any()):
            return torch.where(active, goal, 0.0), active
        ratio = torch.where(negative, found / (found - goal).clamp_min(1e-300), torch.inf)
        share = ratio.amin(-1, keepdim=True)
        found = found + share.clamp_max(1.0) * (torch.where(active, goal, 0.0) - found)
        active = active & ~(negative & (ratio <= share))
        found = torch.where(active, found, 0.0)
