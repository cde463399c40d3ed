"""A pretend accelerator: what CUDA refuses is refused, what it computes is computed on the CPU.

While `pretending()`, tensors can live on `DEVICE`. They wrap tensors of the CPU, and whatever is
asked of them is asked of those; but for autograd, torch.func and the code under test they are
elsewhere. Operations that mix the two devices raise where CUDA would:

- tensors of the CPU are not taken along, unless they have no dimensions and the operation works
  elementwise, or they index a tensor of the accelerator;
- nothing is written into a tensor of the other device, except by copying;
- generators draw on their own device only;
- NumPy does not see the accelerator's memory.

So do products of integer matrices, which CUDA has no kernel for. Least squares are solved by a
plain QR decomposition, the only way CUDA has.

It shows nothing of CUDA's other numbers (TF32, atomic sums, other decompositions), memory, time
and streams, of a second accelerator, of operations PyTorch chooses by the kind of device, such as
fused attention, nor of further kernels that CUDA lacks. Only the thread that pretends can make
tensors there; all can compute with them.

The device is called `lazy`: that type is in every build of PyTorch, nothing stands behind it
unless it is asked for, and its gradients are computed in the thread that wants them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("lazy")
CPU = torch.device("cpu")

aten = torch.ops.aten
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
COPYING = {aten.copy_, aten.copy, aten._to_copy}
SHAPES = {aten.is_same_size, aten._has_same_storage_numel, aten._new_zeros_with_same_feature_meta}
SCALARS = {aten.masked_fill, aten.masked_fill_, aten.fill, aten.fill_, aten.index_fill}
PRODUCTS = {aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.addmv, aten.baddbmm}


class PretendTensor(Tensor):
    """A tensor on the pretend accelerator; `kept` holds its values, on the CPU."""

    kept: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, kept: Tensor) -> PretendTensor:
        strides, offset = kept.stride(), kept.storage_offset()
        wrapper: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls, kept.shape, strides=strides, storage_offset=offset, dtype=kept.dtype, device=DEVICE
        )
        wrapper.kept = kept
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """The same values without their history; assigning takes over another tensor's."""
        return self.detach()

    @data.setter
    def data(self, value: PretendTensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.kept = value.kept

    def numpy(self, *args: Any, **settings: Any) -> Any:
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.kept.tolist()

    def __format__(self, form: str) -> str:
        return format(self.kept, form)

    def __repr__(self) -> str:
        return f"PretendTensor({self.kept!r})"


class PretendGenerator(torch.Generator):
    """A generator of the accelerator; it happens to draw what one of the CPU would."""

    living: ClassVar[weakref.WeakSet[PretendGenerator]] = weakref.WeakSet()

    def __init__(self) -> None:
        super().__init__()
        self.living.add(self)

    @property
    def device(self) -> torch.device:
        return DEVICE


class _Pretence(TorchDispatchMode):
    """Sees the operations without operands on the accelerator: factories and transfers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


@contextlib.contextmanager
def pretending() -> Iterator[torch.device]:
    """Give this thread an accelerator."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=DEVICE) moves visibly
    try:
        with _Pretence():
            yield DEVICE
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Check the devices of one operation as CUDA would, and let the CPU compute it."""
    leaves = flat([*args, *kwargs.values()])
    ours = [x for x in leaves if isinstance(x, PretendTensor)]
    there = bool(ours)
    if kwargs.get("device") is not None:  # made, or copied, where it is asked for
        there = torch.device(kwargs["device"]).type == DEVICE.type
        kwargs = {**kwargs, "device": CPU}
    elif ours:
        check_operands(func, args, kwargs)
        if func.overloadpacket in COPYING:
            there = isinstance(args[0], PretendTensor)
    for generator in leaves:
        if isinstance(generator, torch.Generator):
            check_generator(generator, there)
    if there and func is aten.linalg_lstsq.default:
        kwargs = {**kwargs, "driver": plain_driver(**kwargs)}
    if func is aten._efficientzerotensor.default:  # a tensor without values cannot be kept
        func = aten.zeros.default
    result = func(*each(values, args), **{name: each(values, x) for name, x in kwargs.items()})
    if ours and torch.Tag.inplace_view in func.tags:  # a wrapper's shape changes with its tensor's
        ours[0].data = PretendTensor(ours[0].kept)
    if not there:
        return result
    given = {id(x.kept): x for x in ours}  # what is changed in place is returned as it was passed

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return given[id(x)] if id(x) in given else PretendTensor(x)

    return each(wrapped, result)


def flat(x: Any) -> list[Any]:
    """The leaves of nested lists and tuples, which is all that operations take."""
    return [leaf for y in x for leaf in flat(y)] if isinstance(x, list | tuple) else [x]


def each(function: Callable[[Any], Any], x: Any) -> Any:
    """The same lists and tuples of what a function makes of the leaves."""
    return type(x)([each(function, y) for y in x]) if isinstance(x, list | tuple) else function(x)


def values(x: Any) -> Any:
    """What a pretend tensor keeps on the CPU; anything else as it is."""
    return x.kept if isinstance(x, PretendTensor) else x


def check_operands(func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Raise if an operation takes tensors of both devices, and CUDA would not have it."""
    packet, operands = func.overloadpacket, [*args, *kwargs.values()]
    if packet in SHAPES | COPYING:
        return
    if packet in INDEXING:
        if not isinstance(args[0], PretendTensor) and any(
            isinstance(i, PretendTensor) for i in args[1]
        ):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        operands = [args[0], *args[2:3]]
    tensors = [x for x in flat(operands) if isinstance(x, Tensor)]
    if packet in PRODUCTS and not (tensors[0].is_floating_point() or tensors[0].is_complex()):
        raise RuntimeError(f"{func} is not implemented for {tensors[0].dtype} on {DEVICE}")
    strangers = [x for x in tensors if not isinstance(x, PretendTensor)]
    if not strangers:
        return
    scalars = torch.Tag.pointwise in func.tags or packet in SCALARS | INDEXING
    written = [
        id(leaf)
        for argument, x in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for leaf in flat(x)
    ]
    if any(x.dim() or not scalars or id(x) in written for x in strangers):
        found = ", ".join(f"{tuple(x.shape)} on {x.device}" for x in tensors)
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {func} found {found}"
        )


def check_generator(generator: torch.Generator, there: bool) -> None:
    """Raise unless a generator draws where the numbers are wanted."""
    # an operation is handed the core of a generator only, not the object that was passed
    home = any(generator._cdata == own._cdata for own in PretendGenerator.living)
    if home != there:
        wanted, found = (DEVICE if here else CPU for here in (there, home))
        raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")


def plain_driver(*, driver: str | None = None, **_: Any) -> str:
    """CUDA solves least squares in one way, and another is the CPU's default."""
    if driver not in (None, "gels"):
        raise RuntimeError(
            "torch.linalg.lstsq: `driver` other than `gels` is not supported on CUDA"
        )
    return "gels"
