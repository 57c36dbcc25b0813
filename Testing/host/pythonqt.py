"""PySide6's classes with PythonQt's manners: properties are values, ``connect`` takes a signature, the rest is refused.

In Slicer ``button.text`` is a string and ``button.text()`` a TypeError; in PySide6 it is the reverse, and
``button.text = "x"`` silently shadows the method. Here every Qt property of every PySide6 class becomes a descriptor,
and `strict` makes the classes that are handed out: they take what PythonQt takes and raise on what only PySide6 takes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from PySide6.QtCore import QMetaMethod, QObject

LEFT_AS_METHODS = {"sizeHint", "minimumSizeHint", "singleShot"}
"""Properties that stay functions: two that subclasses override, and one that hides a static function of the same name."""


LOADING = "_loading"
"""In the ``__dict__`` of a widget while PySide6's loader makes its children: it would set each as an attribute."""


class QtProperty:
    """A Qt property of a PySide6 class: the value on an instance, the original function on the class."""

    def __init__(self, name: str, original: Any) -> None:
        self.name = name
        self.original = original

    def __get__(self, instance: QObject | None, owner: type) -> Any:
        return self.original if instance is None else instance.property(self.name)

    def __set__(self, instance: QObject, value: Any) -> None:
        write_property(instance, self.name, value)


def write_property(instance: QObject, name: str, value: Any) -> None:
    """Set a Qt property.

    Raises
    ------
    AttributeError
        The property cannot be written, or not with this value.
    """
    meta = instance.metaObject().property(instance.metaObject().indexOfProperty(name))
    if not meta.isWritable() or not meta.write(instance, value):
        raise AttributeError(f"property {name!r} of {class_name(instance)} cannot be set to {value!r}")


def class_name(instance: QObject) -> str:
    return instance.metaObject().className()


def classes_of(*modules: ModuleType) -> Iterator[type[QObject]]:
    """Every QObject class that the given PySide6 modules define."""
    for module in modules:
        for value in [getattr(module, name) for name in dir(module)]:  # by name: PySide6 makes its classes when asked
            if isinstance(value, type) and issubclass(value, QObject) and hasattr(value, "staticMetaObject"):
                yield value


def give_properties(*modules: ModuleType) -> None:
    """Replace the accessors of every Qt property of the modules' classes by descriptors, once a process."""
    for cls in classes_of(*modules):
        meta = cls.staticMetaObject
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            name = meta.property(index).name()
            if name not in LEFT_AS_METHODS and not isinstance(cls.__dict__.get(name), QtProperty):
                setattr(cls, name, QtProperty(name, getattr(cls, name, None)))
    if not isinstance(QObject.__dict__.get("name"), QtProperty):
        QObject.name = QtProperty("objectName", None)


def signal_names(instance: QObject) -> dict[str, str]:
    """Signature -> name of every signal of an object, those that a stand-in names for VTK arguments included."""
    meta = instance.metaObject()
    methods = (meta.method(index) for index in range(meta.methodCount()))
    own = {
        bytes(m.methodSignature().data()).decode(): bytes(m.name().data()).decode()
        for m in methods
        if m.methodType() == QMetaMethod.MethodType.Signal
    }
    return own | getattr(type(instance), "SIGNATURES", {})


def arguments_taken(handler: Callable[..., Any]) -> int | None:
    """How many positional arguments PythonQt would hand to `handler`; None for one whose signature cannot be seen."""
    if isinstance(handler, functools.partial):
        raise TypeError("a functools.partial is no slot in PythonQt; use a method or a lambda")
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def slot(handler: Callable[..., Any], given: int) -> Callable[..., None]:
    """A function of exactly `given` arguments that calls `handler` with as many of them as it takes.

    PySide6 chooses between ``clicked()`` and ``clicked(bool)`` by the number of arguments that it sees.
    """
    taken = arguments_taken(handler)
    count = given if taken is None else min(given, taken)

    def call(*arguments: Any) -> None:
        handler(*arguments[:count])

    exact = (lambda: call(), lambda a: call(a), lambda a, b: call(a, b), lambda a, b, c: call(a, b, c))
    return exact[given] if given < len(exact) else call


def connect(self: QObject, signal: str, handler: Callable[..., Any]) -> bool:
    """PythonQt's ``object.connect("signal(arguments)", handler)``; a signal that does not exist raises ValueError."""
    signature = signal.replace(" ", "")
    names = signal_names(self)
    if signature not in names:
        near = sorted(known for known in names if known.split("(")[0] == signature.split("(")[0])
        hint = f"; it has {', '.join(near)}" if near else ""
        raise ValueError(f"{class_name(self)} has no signal {signal!r}{hint} (PythonQt would ignore this silently)")
    inside = signature[signature.index("(") + 1 : -1]
    call = slot(handler, inside.count(",") + 1 if inside else 0)
    bound = getattr(self, names[signature])
    bound.connect(call)
    self.__dict__.setdefault("_connections", []).append((signature, handler, bound, call))
    return True


def disconnect(self: QObject, signal: str | None = None, handler: Callable[..., Any] | None = None) -> bool:
    """Undo `connect`: of one handler, of a signal, or of everything; False if nothing was connected."""
    wanted = None if signal is None else signal.replace(" ", "")
    kept, ended = [], []
    for entry in self.__dict__.get("_connections", []):
        matches = wanted in (None, entry[0]) and (handler is None or handler == entry[1])
        (ended if matches else kept).append(entry)
    for _, _, bound, call in ended:
        bound.disconnect(call)
    self.__dict__["_connections"] = kept
    return bool(ended)


def strict(base: type[QObject], **extra: Any) -> type[QObject]:
    """A subclass of the same name as `base` that behaves as PythonQt's wrapper of it."""

    def __init__(self: QObject, *arguments: Any, **keywords: Any) -> None:
        if keywords and type(self) is leaf:
            raise TypeError(f"{base.__name__}() takes no keyword arguments in PythonQt: {', '.join(keywords)}")
        base.__init__(self, *arguments, **keywords)

    def __setattr__(self: QObject, name: str, value: Any) -> None:
        if LOADING in self.__dict__ and isinstance(value, QObject):
            return
        own = name.startswith("_") and not base.__module__.startswith("PySide6")  # a stand-in's own state
        if type(self) is leaf and not own and not known_property(self, name):
            raise AttributeError(f"{base.__name__} has no property {name!r}; PythonQt takes no new attributes")
        base.__setattr__(self, name, value)

    body = {"__init__": __init__, "__setattr__": __setattr__, "connect": connect, "disconnect": disconnect}
    body |= {"className": class_name, "__doc__": base.__doc__, "__module__": base.__module__}
    leaf = type(base)(base.__name__, (base,), body | extra)
    return leaf


def known_property(instance: QObject, name: str) -> bool:
    """Whether PythonQt would let ``instance.name = value`` through: Qt's own properties, static and dynamic."""
    if name in LEFT_AS_METHODS:
        return False
    return name == "name" or instance.metaObject().indexOfProperty(name) >= 0 or name in dynamic_properties(instance)


def dynamic_properties(instance: QObject) -> set[str]:
    return {bytes(name.data()).decode() for name in instance.dynamicPropertyNames()}
