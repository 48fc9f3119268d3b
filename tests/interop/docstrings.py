"""Docstrings of the package `regimed`: sections of numpydoc's form, each right where it is there.

What is not asked for: sections that would say again what a name and a type say (See Also, Examples,
Returns of a plain getter), and the summary's grammar."""

import inspect

import regimed
from numpydoc.validate import validate

LEFT_OUT = {"SA01", "EX01", "ES01", "PR01", "RT01", "YD01", "SS05", "SS06", "GL02"}

names = []
for name in regimed.__all__:
    names.append(f"regimed.{name}")
    of = getattr(regimed, name)
    if inspect.isclass(of):
        own = {k: v for k, v in vars(of).items() if not k.startswith("_")}
        parts = [k for k, v in own.items() if inspect.isfunction(v) or isinstance(v, property)]
        names += [f"regimed.{name}.{part}" for part in parts]
# Made by scikit-learn.
names = [name for name in names if not name.endswith("_request")]
faults = [
    f"{name}: {code} {text}"
    for name in names
    for code, text in validate(name)["errors"]
    if code not in LEFT_OUT
]
print("\n".join(faults))
assert len(names) > 60, names
assert not faults
