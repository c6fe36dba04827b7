"""What a plugin's hook implementations must look like. Checked before they are registered, never when called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence

import pluggy

from relaykit.errors import InvalidHook, did_you_mean

PREFIX = "relaykit_"
_COLOURLESS = (inspect.isasyncgenfunction, inspect.isgeneratorfunction)


def check_hooks(manager: pluggy.PluginManager, plugin: str, implementations: object) -> tuple[str, ...]:
    """Check every hook implementation of a plugin, and return the names of the hooks that it implements, sorted.

    :param implementations: the module, or another object that has the implementations as attributes.
    :raises InvalidHook: one is misspelt, of the wrong colour, a wrapper, takes what is not given, or lacks
        ``@hookimpl``. It names the first one in alphabetical order.
    """
    known = {name: caller.spec.argnames for name, caller in vars(manager.hook).items() if caller.spec}
    hooks = []
    for name, function, options in _candidates(manager, plugin, implementations):
        hook = str(options.get("specname") or name)
        if hook not in known:
            if options.get("optionalhook"):
                continue
            raise InvalidHook(f"there is no such hook{did_you_mean(hook, known)}", plugin=plugin, hook=hook)
        if options.get("wrapper") or options.get("hookwrapper"):
            raise InvalidHook("it is a wrapper, and hooks cannot be wrapped", plugin=plugin, hook=hook)
        _check_colour(plugin, hook, function)
        _check_arguments(plugin, hook, function, known[hook])
        hooks.append(hook)
    if repeated := next((hook for hook in hooks if hooks.count(hook) > 1), None):
        raise InvalidHook("the plugin implements it twice", plugin=plugin, hook=repeated)
    return tuple(sorted(hooks))


def _candidates(
    manager: pluggy.PluginManager, plugin: str, implementations: object
) -> Iterator[tuple[str, Callable[..., object], Mapping[str, object]]]:
    for name in dir(implementations):
        options = manager.parse_hookimpl_opts(implementations, name)
        if options is not None:
            yield name, getattr(implementations, name), {**options}
            continue
        # Read without running properties, as pluggy does.
        attribute = inspect.getattr_static(implementations, name, None)
        if name.startswith(PREFIX) and (
            callable(attribute) or isinstance(attribute, classmethod | staticmethod)
        ):
            raise InvalidHook("it lacks @hookimpl, and would never be called", plugin=plugin, hook=name)


def _check_colour(plugin: str, hook: str, function: Callable[..., object]) -> None:
    synchronous = hook.startswith(f"{PREFIX}register_")
    if inspect.iscoroutinefunction(function) is synchronous or any(test(function) for test in _COLOURLESS):
        colour = "a plain `def`" if synchronous else "an `async def`"
        raise InvalidHook(f"it must be {colour} that returns, without `yield`", plugin=plugin, hook=hook)


def _check_arguments(plugin: str, hook: str, function: Callable[..., object], known: Sequence[str]) -> None:
    names = ", ".join(known) or "none"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise InvalidHook(
                f"it takes `{parameter}`, which would stay empty: name its arguments; there are: {names}",
                plugin=plugin,
                hook=hook,
            )
        given = parameter.name in known
        if given and (parameter.default is not parameter.empty or parameter.kind is parameter.KEYWORD_ONLY):
            raise InvalidHook(
                f"its argument {parameter.name!r} would never be given: take it by position, without a default",
                plugin=plugin,
                hook=hook,
            )
        if not given and parameter.default is parameter.empty:
            raise InvalidHook(
                f"it takes an argument {parameter.name!r} that is not given"
                f"{did_you_mean(parameter.name, known)}; there are: {names}",
                plugin=plugin,
                hook=hook,
            )
