"""`python -m kdlib run|sweep|new|fetch|audit|export|notebook|report|publish|verify`: for clusters and make."""

import argparse
import dataclasses
import json
import sys
import types
import typing

from kdlib import paths

# fields of Run that a profile's grid sets itself
VARIED = ("student", "teacher", "method", "method_options", "debias", "lam", "teacher_debias", "teacher_lam", "seed")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train one network; the last line printed is its record, as JSON")
    _add_fields(run, _fields())
    sweep = commands.add_parser("sweep", help="finish every run of a profile")
    sweep.add_argument("--profile", default="quick", help="a name in profiles/, or a path to a .toml file")
    sweep.add_argument("--engine", default="local")
    sweep.add_argument("--address", help="of a Ray cluster")
    sweep.add_argument("--workers", type=int, help="processes of the local engine (default: one per core)")
    sweep.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="in place of the profile's")
    changes = sweep.add_argument_group(
        "settings in place of the profile's", "for students and teachers alike, but for those that begin with teacher"
    )
    _add_fields(changes, [name for name in _fields() if name not in VARIED], default=argparse.SUPPRESS)
    _add_new(commands, sys.argv[1:] if arguments is None else arguments)
    fetch = commands.add_parser(
        "fetch",
        help="download and check published teachers (without them, teachers are trained here), or WIDER from S3",
    )
    fetch.add_argument("name", help="cifar_teachers or wider")
    fetch.add_argument("--url", help="another address of the teachers' archive")
    fetch.add_argument("--bucket", help="of S3, for wider (default: as KDLIB_S3_BUCKET says, in .env)")
    fetch.add_argument("--prefix", help="what precedes the names in the bucket (default: as KDLIB_S3_PREFIX says)")
    _add_audit(commands.add_parser("audit", help="judge a table of anybody's predictions for bias, on one HTML page"))
    _add_export(commands.add_parser("export", help="a finished run as ONNX, in float and int8, with a model card"))
    notebook = commands.add_parser("notebook", help="execute a notebook with papermill and write it as HTML")
    notebook.add_argument("path")
    notebook.add_argument("--out", required=True, help="the executed notebook")
    notebook.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    report = commands.add_parser("report", help="write the index page of all reports")
    report.add_argument("--profile", default="quick")
    publish = commands.add_parser(
        "publish",
        help="write a profile's table, predictions and figures into reports/published, and its part of docs/results.md",
    )
    publish.add_argument("--profile", default="quick")
    publish.add_argument("--edge", action="store_true", help="what notebook 10 measured, of a published study")
    verify = commands.add_parser(
        "verify", help="rebuild what is published from the committed predictions, without training, and compare"
    )
    verify.add_argument("--profile", default="", help="one published study (default: all)")
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown and chosen.command != "new":
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        if unknown:
            _refuse_flag(unknown[0], chosen)
        _COMMANDS[chosen.command](chosen)
    except ModuleNotFoundError as error:
        print(f"kdlib: {chosen.command} needs the package {error.name}, which is not installed", file=sys.stderr)
        return 1
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"kdlib: {error}", file=sys.stderr)
        return 1
    return 0


def _add_new(commands, arguments):
    """The command `new`, with a flag for each option of the data set that the arguments name."""
    new = commands.add_parser("new", help="write the profile of a study of your own pictures, after a look at them")
    new.add_argument("file", help="where it goes, as mine.toml")
    new.add_argument("--from", dest="base", default="quick", help="a study whose methods, seeds and debiasers it takes")
    new.add_argument("--data", default="table", help="table (your own pictures), fairface, celeba, …")
    new.add_argument(
        "--teacher",
        help="a network (default: one that fits the pictures); one of yours is taken as it is: package.module:function, "
        "an .npz file of its outputs, or a network whose weights are given",
    )
    new.add_argument("--teacher-weights", metavar="FILE", help="a checkpoint of the teacher")
    new.add_argument("--student", help="a network (default: one that fits the pictures)")
    new.add_argument("--minutes", type=float, default=20, help="of all training, which decides the epochs (20)")
    new.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    if "new" not in arguments:  # reading the options of a data set takes half a second
        return
    from kdlib import data

    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--data", default="table")
    name = chosen.parse_known_args(arguments)[0].data
    options = new.add_argument_group(f"options of the data set {name}", "see docs/data.md")
    for option, default in data.defaults(name).items() if name in data.SOURCES else ():
        several = "+" if isinstance(default, tuple) or option.endswith("_values") else None
        options.add_argument(f"--{option.replace('_', '-')}", dest=f"data_{option}", nargs=several, help=f"({default})")


def _fields():
    """{name: dataclass field} of Run's."""
    from kdlib.recipes import Recipe

    return {field.name: field for field in dataclasses.fields(Recipe)}


def _add_fields(parser, names, **default):
    """A flag for each of these fields of Run, with its own default or another."""
    from kdlib.recipes import Recipe

    hints, fields = typing.get_type_hints(Recipe), _fields()
    for name in names:
        kind = hints[name]
        if isinstance(kind, types.UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        options |= {"default": fields[name].default} | default
        parser.add_argument("--" + name.replace("_", "-"), **options)


def _add_audit(parser):
    parser.add_argument("predictions", help="CSV, TSV or parquet with a line for each image")
    parser.add_argument("--out", default="audit.html", help="the page")
    parser.add_argument("--teacher", metavar="FILE", help="its predictions on the same images")
    parser.add_argument(
        "--teacher-prediction", metavar="COLUMN", help="of the teacher's file, or without one of this file"
    )
    parser.add_argument("--label", metavar="COLUMN", default="label")
    parser.add_argument("--prediction", metavar="COLUMN", default="prediction")
    parser.add_argument("--group", metavar="COLUMN", nargs="+", default=["group"], help="several are crossed")
    parser.add_argument(
        "--pair", metavar="COLUMN", help="the original that an image shows (default: pair, if there is one)"
    )
    parser.add_argument(
        "--id", metavar="COLUMN", dest="identity", help="what names a row in both files (default: id, file, …)"
    )
    parser.add_argument(
        "--probabilities",
        metavar="COLUMN",
        nargs="+",
        default=[],
        help="one for each class, in the order of the classes",
    )


def _add_export(parser):
    parser.add_argument("--out", required=True, help="the folder that gets the files")
    parser.add_argument("--profile", help="the study whose run it is; the flags below say which (default: plain)")
    parser.add_argument("--int8", choices=("channel", "tensor", "both", "no"), default="channel",
                        help="a scale for each channel of the weights, or for each layer")  # fmt: skip
    parser.add_argument("--pixels", choices=("uint8", "float"), default="uint8", help="what the file takes")
    parser.add_argument("--calibration", default="balanced", help="balanced, training, or a group alone")
    parser.add_argument("--observer", choices=("minmax", "percentile", "entropy"), default="percentile")
    parser.add_argument("--most-lost", type=float, default=0.02, help="of validation accuracy, by int8 (0.02)")
    parser.add_argument("--degenerate", action="store_true", help="write int8 even if it loses more, or is useless")
    _add_fields(parser.add_argument_group("the run"), _fields(), default=argparse.SUPPRESS)


def _given(chosen):
    """The fields of Run that are among the arguments."""
    return {name: getattr(chosen, name) for name in _fields() if hasattr(chosen, name)}


def _run(chosen):
    from kdlib.runs.checks import checked

    (settings,) = checked([_given(chosen)])  # before torch is loaded, as far as that can be
    from kdlib.runs.training import run

    print(json.dumps(run(settings)))


def _sweep(chosen):
    from kdlib import profiles
    from kdlib.runs import checks

    given = _given(chosen)
    # what is wrong with data is said before torch is loaded
    checks.look(profiles.data_settings(chosen.profile) | given)
    study = profiles.profile(chosen.profile, "all").changed(chosen.seeds, **given)
    settings = checks.checked(study.grid() + study.extras())
    from kdlib.sweep import sweep

    table = sweep(settings, chosen.engine, workers=chosen.workers, address=chosen.address)
    print(f"{len(table)} runs of profile {study.name} are in the store")


def _refuse_flag(flag, chosen):
    from kdlib import data, names

    data.defaults(chosen.data)  # if the data set is unknown, that is the reason
    known = [f"--{name.removeprefix('data_').replace('_', '-')}" for name in vars(chosen) if name.startswith("data_")]
    raise names.unknown_name(flag, known, f"option of data set {chosen.data}:")


def _new(chosen):
    from kdlib import data
    from kdlib.runs.new import new

    data.defaults(chosen.data)  # a misspelt name is refused
    given = {name.removeprefix("data_"): value for name, value in vars(chosen).items() if name.startswith("data_")}
    given = {name: value if isinstance(value, str) else " ".join(value) for name, value in given.items() if value}
    networks = {name: getattr(chosen, name) for name in ("teacher", "teacher_weights", "student")}
    new(chosen.file, chosen.base, chosen.data, given, minutes=chosen.minutes, overwrite=chosen.overwrite, **networks)


def _fetch(chosen):
    from kdlib import names, storage
    from kdlib.models import published

    if chosen.name == "wider":
        storage.fetch_wider(chosen.bucket, chosen.prefix)
    elif chosen.name in published.ARCHIVES:
        published.fetch(chosen.name, chosen.url)
    else:
        raise names.unknown_name(chosen.name, [*published.ARCHIVES, "wider"], "download")


def _audit(chosen):
    from kdlib.report.audit import audit

    options = {name: value for name, value in vars(chosen).items() if name != "command"}
    path, verdict = audit(**options)
    print(f"{verdict}\n{path}")


def _export(chosen):
    from kdlib.export import export, run_of_profile

    settings = _given(chosen)
    if chosen.profile:
        settings = run_of_profile(chosen.profile, settings)
    options = {name: getattr(chosen, name) for name in ("pixels", "calibration", "observer", "most_lost", "degenerate")}
    int8 = False if chosen.int8 == "no" else chosen.int8
    print(json.dumps(export(settings, chosen.out, int8=int8, **options)))


def _notebook(chosen):
    from kdlib.report.pages import execute

    execute(chosen.path, chosen.out, dict(chosen.parameter))


def _report(chosen):
    from kdlib.report.pages import write_index

    print(write_index(chosen.profile))


def _publish(chosen):
    paths.check_checkout("what is published")
    from kdlib.report import claims
    from kdlib.report.edge_publish import publish_edge
    from kdlib.report.publish import publish

    if chosen.edge:
        return print(publish_edge(chosen.profile))
    print(publish(chosen.profile))
    claims.into_pages()


def _verify(chosen):
    paths.check_checkout("what is published")
    from kdlib.report.verify import verify

    problems = verify(chosen.profile)
    if problems:
        raise RuntimeError("what is published does not follow from its predictions:\n" + "\n".join(problems))


_COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "new": _new,
    "fetch": _fetch,
    "audit": _audit,
    "export": _export,
    "notebook": _notebook,
    "report": _report,
    "publish": _publish,
    "verify": _verify,
}


def command() -> int:
    """What a shell calls: `main`, and one sentence where Ctrl-C ends it."""
    try:
        return main()
    except KeyboardInterrupt:
        said = "was interrupted; the same command goes on from what is finished"
        print(f"kdlib: {' '.join(sys.argv[1:2])} {said}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(command())
