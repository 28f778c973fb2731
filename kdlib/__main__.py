"""`python -m kdlib run|sweep|fetch|notebook|report|publish …`: the same calls as the notebooks', for clusters and for make."""

import argparse
import dataclasses
import json
import sys
import types
import typing


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kdlib", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="train one network; the last line printed is its record, as JSON"))
    sweep = commands.add_parser("sweep", help="finish every run of a profile")
    sweep.add_argument("--profile", default="quick")
    sweep.add_argument("--engine", default="local")
    sweep.add_argument("--address", help="of a Ray cluster")
    sweep.add_argument("--workers", type=int, help="processes of the local engine (default: one per core)")
    fetch = commands.add_parser(
        "fetch",
        help="download and check published teachers (without them, teachers are trained here), or WIDER from S3",
    )
    fetch.add_argument("name", help="cifar_teachers or wider")
    fetch.add_argument("--url", help="another address of the teachers' archive")
    fetch.add_argument("--bucket", help="of S3, for wider (default: as KDLIB_S3_BUCKET says, in .env)")
    fetch.add_argument("--prefix", help="what precedes the names in the bucket (default: as KDLIB_S3_PREFIX says)")
    notebook = commands.add_parser("notebook", help="execute a notebook with papermill and write it as HTML")
    notebook.add_argument("path")
    notebook.add_argument("--out", required=True, help="the executed notebook")
    notebook.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    report = commands.add_parser("report", help="write the index page of all reports")
    report.add_argument("--profile", default="quick")
    publish = commands.add_parser("publish", help="copy a profile's table and figures into reports/published")
    publish.add_argument("--profile", default="quick")
    chosen = parser.parse_args(arguments)
    try:
        _COMMANDS[chosen.command](chosen)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"kdlib: {error}", file=sys.stderr)
        return 1
    return 0


def _add_run(parser):
    from kdlib.runs import Run

    hints = typing.get_type_hints(Run)
    for field in dataclasses.fields(Run):
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(part for part in typing.get_args(kind) if part is not type(None))
        options = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        parser.add_argument("--" + field.name.replace("_", "-"), default=field.default, **options)


def _run(chosen):
    from kdlib.runs import Run, run

    settings = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(Run)}
    print(json.dumps(run(settings)))


def _sweep(chosen):
    from kdlib.profiles import profile
    from kdlib.sweep import sweep

    study = profile(chosen.profile, "all")
    table = sweep(study.grid() + study.extras(), chosen.engine, workers=chosen.workers, address=chosen.address)
    print(f"{len(table)} runs of profile {chosen.profile} are in the store")


def _fetch(chosen):
    from kdlib import paths, storage
    from kdlib.models import published

    if chosen.name == "wider":
        storage.fetch_wider(chosen.bucket, chosen.prefix)
    elif chosen.name in published.ARCHIVES:
        published.fetch(chosen.name, chosen.url)
    else:
        raise paths.near(chosen.name, [*published.ARCHIVES, "wider"], "download")


def _notebook(chosen):
    from kdlib.report import execute

    execute(chosen.path, chosen.out, dict(chosen.parameter))


def _report(chosen):
    from kdlib.report import write_index

    print(write_index(chosen.profile))


def _publish(chosen):
    from kdlib.report import publish

    print(publish(chosen.profile))


_COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "fetch": _fetch,
    "notebook": _notebook,
    "report": _report,
    "publish": _publish,
}

if __name__ == "__main__":
    sys.exit(main())
