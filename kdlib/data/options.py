"""Options as text such as "label=race, size=32": read in the types of their defaults, and written in one spelling."""

import csv

from kdlib import names


def parse(text, defaults, owner) -> dict:
    """Return the options in `text`, such as "label=race, size=32", in the types of their defaults.

    Several numbers are separated by blanks ("bands=20 40"); a comma within a value needs quotes ('"path=faces, old"').

    Parameters
    ----------
    text : str
    defaults : dict
        {option: default}; a default of None stands for a number or "none".
    owner : str
        Whose options they are, for messages, such as "data set utkface".

    Raises
    ------
    ValueError
        For an unknown option, an option that is given twice, and a value of another type.
    """
    options = {}
    try:
        items = next(csv.reader([text.strip()], skipinitialspace=True), ())
    except csv.Error as error:
        raise ValueError(f"options of {owner} are on one line, with commas between them; got {text!r}") from error
    for item in items:
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise ValueError(f"options of {owner} are as option=value, with commas between them; got {item!r}")
        if option not in defaults:
            raise names.unknown_name(option, defaults, f"option of {owner}:")
        if option in options:
            raise ValueError(f"option {option} of {owner} is given twice, in {text!r}")
        try:
            options[option] = _typed(value, defaults[option])
        except (ValueError, KeyError):
            raise ValueError(
                f"option {option} of {owner} cannot be {value!r}: its default is {defaults[option]!r}"
            ) from None
    return options


def spell(options, defaults) -> str:
    """Return `options` as text, in order and without those that have their default: one spelling for all that say the same."""
    items = []
    for option, value in sorted(options.items()):
        if value != defaults[option]:
            item = f"{option}={_as_text(value)}"
            items.append('"' + item.replace('"', '""') + '"' if set(item) & set(',"') else item)
    return ", ".join(items)


def _typed(text, default):
    """`text` in the type of `default`; if that is None, a number or "none". ValueError or KeyError if it is neither."""
    if isinstance(default, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(default, tuple):
        return tuple(int(part) if part.lstrip("-").isdecimal() else float(part) for part in text.split())
    if default is None:
        return None if text.lower() == "none" else int(text) if text.isdecimal() else float(text)
    return type(default)(text)


def _as_text(value) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
