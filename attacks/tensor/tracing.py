"""What lies between the linear layers of a module, by tracing it.

torch.fx follows the module's Python; if that cannot be traced, the module is run once on a random
input with a hook on every leaf module, and layers that hand on the same values are chained.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Link:
    """Two consecutive linear layers and the functions before, between and after them."""

    hidden: str
    outgoing: str
    between: Function
    before: Function | None
    after: Function | None


def linked_layers(model: nn.Module, input_shape: tuple[int, ...] | None) -> Iterator[Link]:
    """Linear layers of a private module, each with the next one it feeds, in forward order.

    Parameters
    ----------
    model : nn.Module
        A private copy in evaluation mode; its code may be run.
    input_shape : tuple of int, optional
        Shape of one input, for modules that cannot be traced; by default what their first linear
        layer takes.

    Returns
    -------
    iterator of Link
        Empty if nothing can be read.
    """
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # tracing runs the module's own code, which may raise anything
        return _recorded(model, input_shape)
    return _traced(model, graph)


def _traced(model: nn.Module, graph: fx.Graph) -> Iterator[Link]:
    """Linear layers of a traced module and what lies between each and the next it feeds."""
    modules = dict(model.named_modules())
    nodes = list(graph.nodes)
    linear = [n for n in nodes if n.op == "call_module" and _is_linear(modules, n)]
    source = next(n for n in nodes if n.op == "placeholder")
    sink = next(n for n in nodes if n.op == "output")
    for first in linear:
        reached = _reachable(first)
        second = next((n for n in linear if n in reached), None)
        if second is None or not _only_way(first, second, reached):
            continue
        between = _subgraph(model, nodes, first, second.all_input_nodes[0])
        if between is None:
            continue
        yield Link(
            hidden=str(first.target),
            outgoing=str(second.target),
            between=between,
            before=_subgraph(model, nodes, source, first.all_input_nodes[0]),
            after=_subgraph(model, nodes, second, sink.all_input_nodes[0]),
        )


def _is_linear(modules: dict[str, nn.Module], node: fx.Node) -> bool:
    return isinstance(modules.get(str(node.target)), nn.Linear)


def _reachable(node: fx.Node) -> set[fx.Node]:
    """All nodes that depend on a node."""
    found: set[fx.Node] = set()
    frontier = list(node.users)
    while frontier:
        user = frontier.pop()
        if user not in found:
            found.add(user)
            frontier.extend(user.users)
    return found


def _only_way(first: fx.Node, second: fx.Node, reached: set[fx.Node]) -> bool:
    """Whether everything computed from `first` passes through `second` (no skip connection)."""
    beyond = _reachable(second)
    between = reached - beyond - {second}
    return all(user in between or user is second for n in (first, *between) for user in n.users)


def _subgraph(
    model: nn.Module, nodes: list[fx.Node], source: fx.Node, target: fx.Node
) -> Function | None:
    """The value of one node as a function of another's alone, or None if it needs more."""
    needed = ancestors(target, source)
    if any(node.op == "placeholder" for node in needed):
        return None
    ordered = [n for n in nodes if n in needed]

    def run(x: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {source: x}
        for node in ordered:
            values[node] = _evaluate(model, node, values, x.dtype)
        return values[target]

    return run


def ancestors(node: fx.Node, stop: fx.Node) -> set[fx.Node]:
    """A node and everything it is computed from, up to `stop`.

    Parameters
    ----------
    node : fx.Node
        Included, unless it is `stop`.
    stop : fx.Node
        Neither included nor followed.

    Returns
    -------
    set of fx.Node
    """
    found: set[fx.Node] = set()
    frontier = [node]
    while frontier:
        current = frontier.pop()
        if current is stop or current in found:
            continue
        found.add(current)
        frontier.extend(current.all_input_nodes)
    return found


def _evaluate(model: nn.Module, node: fx.Node, values: dict, dtype: torch.dtype) -> Any:
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(model)
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().to(dtype) if floating else value
    if node.op == "call_module":
        return _called(model.get_submodule(str(node.target)), args, kwargs, dtype)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _called(module: nn.Module, args: tuple, kwargs: dict, dtype: torch.dtype) -> Any:
    """Call a module in a precision that need not be its parameters'."""
    state = {k: v.detach().to(dtype) for k, v in module.named_parameters()}
    return torch.func.functional_call(module, state, args, kwargs)


def _recorded(model: nn.Module, input_shape: tuple[int, ...] | None) -> Iterator[Link]:
    """Leaf modules in the order one forward pass calls them, cut where data takes another way."""
    chain = _calls(model, input_shape)
    names = {m: name for name, m in model.named_modules()}
    linear = [i for i, (module, _, _) in enumerate(chain) if isinstance(module, nn.Linear)]
    for i, j in itertools.pairwise(linear):
        if not all(same_values(chain[k][2], chain[k + 1][1]) for k in range(i, j)):
            continue
        whole = all(same_values(chain[k][2], chain[k + 1][1]) for k in range(i))
        ending = all(same_values(chain[k][2], chain[k + 1][1]) for k in range(j, len(chain) - 1))
        yield Link(
            hidden=names[chain[i][0]],
            outgoing=names[chain[j][0]],
            between=_compose([c[0] for c in chain[i + 1 : j]]),
            before=_compose([c[0] for c in chain[:i]]) if whole else None,
            after=_compose([c[0] for c in chain[j + 1 :]]) if ending else None,
        )


def _calls(
    model: nn.Module, input_shape: tuple[int, ...] | None
) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """(module, input, output) of every leaf module, in the order of one forward pass."""
    first = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if first is None:
        return []
    shape = input_shape if input_shape is not None else (first.in_features,)
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(module: nn.Module, inputs: tuple, output: object) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append((module, inputs[0].clone(), output.clone()))

    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            model(torch.randn(2, *shape, generator=generator).to(first.weight))
    except Exception:  # a guessed input shape may be wrong in any way the module likes
        return []
    finally:
        for handle in handles:
            handle.remove()
    return calls


def same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same entries in the same order, whatever their shapes.

    Parameters
    ----------
    a, b : Tensor
        Of any shapes.

    Returns
    -------
    bool
        False if the numbers of entries differ.
    """
    return a.numel() == b.numel() and torch.equal(a.flatten(), b.flatten())


def _compose(modules: list[nn.Module]) -> Function:
    def composed(x: Tensor) -> Tensor:
        for module in modules:
            x = _called(module, (x,), {}, x.dtype)
        return x

    return composed
