"""`kdlib audit`: what it reads, that its page holds the figures of kdlib.bias, and that the verdict follows from them."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from kdlib import bias
from kdlib.__main__ import main
from kdlib.report import audit, audit_findings, audit_words

VOID = {"meta", "link", "br", "img", "circle", "line", "rect"}
COUNTED = [(0, 0), (0, 1), (1, 0), (1, 1)]  # cells (class, group)


class Page(HTMLParser):
    """A page's text, its tables as lists of rows of texts, its tags with attributes; wrongly nested tags are refused."""

    def __init__(self, file):
        super().__init__()
        self.source, self.texts, self.tables, self.tags, self.open = file.read_text("utf-8"), [], [], [], []
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        data = data.replace("\u00a0", " ")
        if "style" not in self.open:
            self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def figures(self, place):
        """The table of all figures: {name: list of numbers}."""
        rows = self.tables[place][1:]
        numbers = {"–": np.nan, "true": 1.0, "false": 0.0}
        return {name: [numbers[v] if v in numbers else float(v) for v in values] for name, *values in rows}


def cells(right, images, classes=("cat", "dog"), groups=("f", "m")):
    """A table of two classes and groups: so many right of so many images in each cell of COUNTED."""
    rows = []
    for (k, g), hits, count in zip(COUNTED, right, images, strict=True):
        rows += [(classes[k], classes[k if i < hits else 1 - k], groups[g]) for i in range(count)]
    return pd.DataFrame(rows, columns=["label", "prediction", "group"])


BIASED, FAIR, FEW, CONSTANT = (
    cells([180, 180, 180, 130], [200] * 4), cells([180, 182, 179, 180], [200] * 4), cells([8, 9, 9, 8], [10] * 4),
    cells([400, 400, 0, 0], [400, 400, 300, 300]),
)  # fmt: skip


def drawn(classes=6, images=600, seed=0):
    """A drawn table with a teacher, ids, three groups and two attributes."""
    rng = np.random.default_rng(seed)
    label, group, age = rng.integers(0, classes, images), rng.integers(0, 3, images), rng.integers(0, 2, images)

    def model(recall):
        return np.where(rng.random(images) < recall, label, rng.integers(0, classes, images))

    table = {"file": [f"{i}.png" for i in range(images)], "label": label, "prediction": model(0.7 - 0.2 * (group == 2))}
    return pd.DataFrame(table | {"group": group, "age": age, "teacher": model(0.8)})


def write(table, file, **options):
    table.to_csv(file, index=False, **options)
    return file


def page(tmp_path, table, *arguments):
    """Run the command on a table; return its page."""
    file, out = tmp_path / "predictions.csv", tmp_path / "audit.html"
    assert main(["audit", str(write(table, file)), "--out", str(out), *map(str, arguments)]) == 0
    return Page(out)


def close(shown, expected):
    assert set(shown) == set(expected)
    for name, value in expected.items():
        assert shown[name] == pytest.approx(float(value), rel=1e-5, nan_ok=True), name


# ---- the page


def test_the_page_holds_the_figures_of_kdlib_bias(tmp_path):
    table = drawn()
    shown = page(tmp_path, table, "--teacher-prediction", "teacher")
    arrays = table["label"].to_numpy(), table["prediction"].to_numpy(), table["group"].to_numpy()
    student, teacher = bias.summary(*arrays), bias.summary(arrays[0], table["teacher"].to_numpy(), arrays[2])
    close({name: values[0] for name, values in shown.figures(-2).items()}, student)
    close({name: values[1] for name, values in shown.figures(-2).items()}, teacher)
    compared = bias.compare(arrays[0], table["teacher"].to_numpy(), *arrays[1:])
    close({name: values[0] for name, values in shown.figures(-1).items()}, compared)
    assert f"MAD) is {student['mad']:.3f}" in shown.text
    recall, (head, *rows) = bias.class_recall(*arrays), shown.tables[1]
    assert [row[0] for row in rows] == [str(k) for k in range(6)]
    assert head[1] == "recall “0” (images)"
    for k, row in enumerate(rows):
        assert row[1:4] == [f"{recall[g, k]:.3f} ({((arrays[0] == k) & (arrays[2] == g)).sum()})" for g in range(3)]
    groups = {row[0]: row for row in shown.tables[2][1:]}
    assert groups["2"][2].startswith(f"{student['accuracy_group_2']:.3f} (")
    assert groups["1"][-2] == audit_words.percent(compared["churn_group_1"])


@pytest.mark.parametrize("arguments", [[], ["--teacher-prediction", "teacher"]])
def test_the_page_needs_nothing_from_elsewhere_and_describes_its_figures(tmp_path, arguments):
    shown = page(tmp_path, drawn(), *arguments)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in shown.tags}
    assert not [value for _, attributes in shown.tags for value in attributes if value in ("src", "href")]
    assert not re.search(r"https?:|url\(|@import|\bon\w+=", shown.source)
    assert "prefers-color-scheme: dark" in shown.source
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in shown.tags
    pictures = [attributes for tag, attributes in shown.tags if tag == "svg"]
    ids = {attributes.get("id") for _, attributes in shown.tags}
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["role"] == "img"
        assert set(picture["aria-labelledby"].split()) <= ids
    assert sum(tag == "circle" for tag, _ in shown.tags) == (6 + 3) * (1 + bool(arguments))
    largest = max((row[4], row[0]) for row in shown.tables[1][1:])
    assert f"to +{largest[0]} ({largest[1]})" in shown.text  # the text for who does not see the figure


def test_what_a_table_holds_is_text_and_never_markup(tmp_path):
    nasty = '<script>alert("1")</script>&amp;\'" onload="x'
    table = cells([180, 180, 180, 120], [200] * 4, classes=(nasty, "</style><b>"), groups=("<i>f", '"m'))
    table = table.rename(columns={"group": "<u>sex"}).assign(teacher=table["prediction"])
    table = table.rename(columns={"teacher": "<em>t"})
    shown = page(tmp_path, table, "--group", "<u>sex", "--teacher-prediction", "<em>t")
    assert not {"script", "b", "i", "u", "em"} & {tag for tag, attributes in shown.tags if not attributes}
    assert all("onload" not in attributes for _, attributes in shown.tags)
    assert nasty in [row[0] for row in shown.tables[1]]
    assert "<u>sex" in shown.text


def test_many_classes_are_all_in_the_table_and_the_largest_in_the_figure(tmp_path):
    long = "a class whose name is far too long for any figure on a telephone"
    table = drawn(classes=40, images=3000)
    table["label"], table["prediction"] = (
        table[name].map(lambda k: f"{long} {k:02}") for name in ("label", "prediction")
    )
    shown = page(tmp_path, table)
    assert len(shown.tables[1]) == 41
    assert sum(tag == "circle" for tag, _ in shown.tags) == 24 + 3
    assert "the 24 largest of 40" in shown.text
    figure = re.search(r"<svg.*?</svg>", shown.source, re.DOTALL)[0]
    assert max(map(len, re.findall(r"<text x=\"0\"[^>]*>([^<]*)<title>", figure))) <= 44


# ---- the verdict


@pytest.mark.parametrize(
    ("table", "kind", "words"),
    [
        (BIASED, "biased", ["Biased.", "“dog” is recognised in 65 % of 200 images of “m” and in 90 % of 200 of “f”."]),
        (FAIR, "not-shown", ["No bias shown.", "is excluded (root mean square"]),
        (FEW, "too-little-data", ["Too little data.", "is not excluded", "times as many"]),
        (CONSTANT, "too-weak", ["Too weak a model to judge.", "accuracy of 57 %"]),
        (FAIR.assign(group=FAIR["label"]), "too-little-data", ["No class has images of two groups"]),
    ],
)
def test_the_verdict_follows_the_numbers(tmp_path, capsys, table, kind, words):
    shown = page(tmp_path, table)
    assert f"verdict {kind}" in [attributes.get("class") for _, attributes in shown.tags]
    printed = capsys.readouterr().out
    assert all(text in printed and text in shown.text for text in words)


def test_what_is_excluded_is_the_upper_limit_of_the_root_of_u():
    found = read_frame(FAIR)
    u = bias.mean_square_disparity_interval(found.y_true, found.student, found.group)
    findings = audit_findings.measure(found)
    assert findings.excluded == pytest.approx(np.sqrt(u.high - min(u.value, 0)))
    assert f"above {findings.excluded:.3f} is excluded" in " ".join(audit_words.verdict(found, findings).sentences)


def test_one_biased_class_among_many_is_found_and_named(tmp_path):
    rng = np.random.default_rng(0)
    label, group = np.repeat(np.arange(30), 100), np.tile([0, 1], 1500)
    missed = (rng.random(3000) < 0.15) | ((label == 7) & (group == 1) & (rng.random(3000) < 0.6))
    table = pd.DataFrame({"label": label, "prediction": np.where(missed, (label + 1) % 30, label), "group": group})
    shown = page(tmp_path, table)
    assert "1 of 30 classes differs after adjustment" in shown.text
    assert "“7” is recognised in" in shown.text
    assert sum(attributes.get("class") == "marked" for _, attributes in shown.tags) == 1


def read_frame(table, **options):
    """The audit's reading of a table that is not in a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_table", lambda path: table.astype(str))
        return audit.read("x.csv", **options)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (BIASED, FAIR, "The student is more biased than its teacher: √U changes by +"),
        (FAIR, BIASED, "The student is less biased than its teacher: √U changes by −"),
        (FAIR, FAIR, "No difference from its teacher is shown"),
        (FEW, cells([9, 8, 7, 9], [10] * 4), "These images cannot tell"),
    ],
)
def test_the_student_is_compared_with_its_teacher(student, teacher, words):
    found = read_frame(student.assign(teacher=teacher["prediction"]), teacher_prediction="teacher")
    findings = audit_findings.measure(found)
    text = " ".join(audit_words.verdict(found, findings).of_teacher)
    assert words in text
    assert f"{findings.comparison['sqrt_u_inflation']:+.3f}".replace("-", "−") in text


def test_with_three_groups_mad_is_compared_less_its_floor():
    found = read_frame(drawn(), teacher_prediction="teacher")
    findings = audit_findings.measure(found)
    measure, value, low, high = audit_words.inflation(found, findings)
    floors = findings.figures["mad_floor"] - findings.teacher["mad_floor"]
    assert measure == "MAD less its floor"
    assert value == pytest.approx(findings.comparison["inflation"] - floors)
    assert low < value < high


def test_what_the_data_cannot_show_is_said():
    table = pd.concat([FEW, pd.DataFrame([("eel", "eel", "f"), ("cat", "cat", "")], columns=FEW.columns)])
    found = read_frame(table.reset_index(drop=True))
    text = " ".join(audit_words.verdict(found, audit_findings.measure(found)).limits)
    assert "“eel” has images of one group only" in text
    assert "1 of 42 images have no known group" in text
    assert "1 of 5 cells (class × group) hold fewer than 10 images, the smallest 1" in text
    assert "a column pair" in text
    assert "Without probabilities" in text


# ---- reading


def test_columns_and_names_are_those_of_the_file(tmp_path):
    table = BIASED.rename(columns={"label": "truth", "prediction": "guess", "group": "sex"}).assign(group="unused")
    shown = page(tmp_path, table, "--label", "truth", "--prediction", "guess", "--group", "sex")
    assert "sex: “f” 400 and “m” 400" in shown.text
    assert [row[0] for row in shown.tables[1]] == ["class", "cat", "dog"]


@pytest.mark.parametrize(
    "store",
    [
        lambda table, file: table.to_csv(file, index=False, sep="\t"),
        lambda table, file: table.to_csv(file, index=False, sep=";", encoding="utf-8-sig"),
        lambda table, file: table.to_csv(file, index=False, encoding="utf-16"),
        lambda table, file: table.to_parquet(file),
    ],
)
def test_other_files_are_read_too(tmp_path, store):
    file = tmp_path / ("x.parquet" if "parquet" in store.__code__.co_names[-1] else "x.csv")
    store(BIASED, file)
    found, expected = audit.read(file), read_frame(BIASED)
    assert found.classes == ("cat", "dog")
    assert all((getattr(found, part) == getattr(expected, part)).all() for part in ("y_true", "student", "group"))


def test_a_pair_column_makes_floors_those_of_pairs(tmp_path):
    table = pd.concat([FAIR[FAIR["group"] == name].reset_index(drop=True) for name in "fm"]).reset_index(drop=True)
    table["pair"] = [f"original {i % 400}" for i in range(800)]
    found = read_frame(table)
    expected = bias.summary(found.y_true, found.student, found.group, pair=np.arange(800) % 400)
    assert expected["paired"]
    close({name: values[0] for name, values in page(tmp_path, table).figures(-1).items()}, expected)
    other = table.rename(columns={"pair": "source"})
    assert not audit_findings.measure(read_frame(other)).figures["paired"]
    close(audit_findings.measure(read_frame(other, pair="source")).figures, expected)
    lone = read_frame(table.assign(pair=""))  # unknown is no id that images could share
    assert not audit_findings.measure(lone).figures["paired"]


def test_several_groups_are_crossed_and_shown_alone(tmp_path):
    table = drawn()
    for arguments in (["--group", "group", "age"], ["--group", "group+age"]):
        shown = page(tmp_path, table, *arguments)
        crossed = bias.intersection({name: table[name].to_numpy() for name in ("group", "age")})
        assert [row[0] for row in shown.tables[2][1:]] == list(crossed.names)
        expected = bias.summary(table["label"].to_numpy(), table["prediction"].to_numpy(), crossed.group)
        close({name: values[0] for name, values in shown.figures(-1).items()}, expected)
        assert [row[:2] for row in shown.tables[3][1:]] == [["group", "3"], ["age", "2"]]
    rare = table.assign(age=np.where(np.arange(600) < 5, 2, table["age"]))
    assert "pooled in the group “other”" in page(tmp_path, rare, "--group", "group", "age").text
    few = read_frame(FEW.assign(age=np.arange(40) % 2), group=("group", "age"))
    assert few.groups == tuple(f"group={sex}, age={age}" for sex in "fm" for age in "01")


@pytest.mark.parametrize("name", ["file", "image_id"])
def test_a_teacher_in_another_order_is_matched_by_the_column_that_names_rows(tmp_path, name):
    table = drawn().rename(columns={"file": name})
    teacher = table[[name, "teacher"]].rename(columns={"teacher": "prediction"}).sample(frac=1, random_state=0)
    file, identity = write(teacher, tmp_path / "teacher.csv"), [] if name == "file" else ["--id", name]
    shown = page(tmp_path, table, "--teacher", file, *identity)
    arrays = (table[column].to_numpy() for column in ("label", "teacher", "prediction", "group"))
    close({name: values[0] for name, values in shown.figures(-1).items()}, bias.compare(*arrays))


def test_a_teacher_without_names_is_matched_by_order_and_labels(tmp_path):
    table = drawn().drop(columns="file")
    teacher = write(table[["label", "teacher"]], tmp_path / "teacher.csv")
    found = audit.read(write(table, tmp_path / "p.csv"), teacher=teacher, teacher_prediction="teacher")
    assert (found.teacher == table["teacher"]).all()
    assert found.teacher_name == "teacher.csv"


def test_probabilities_are_known_by_the_names_of_classes_or_by_their_order(tmp_path):
    rng = np.random.default_rng(0)
    score = rng.random(800) * 0.5 + 0.5
    of_cat = np.where(FAIR["prediction"] == "cat", score, 1 - score)
    table = FAIR.assign(p_dog=(1 - of_cat).round(3), p_cat=of_cat.round(3))
    found = read_frame(table, probabilities=["p_dog", "p_cat"])
    assert found.probability[:, 0] == pytest.approx(table["p_cat"])  # cat is the first class
    named = read_frame(table.rename(columns={"p_dog": "x", "p_cat": "y"}), probabilities=["y", "x"])
    assert (named.probability == found.probability).all()
    shown = page(tmp_path, table, "--probabilities", "p_dog", "p_cat")
    expected = bias.summary(found.y_true, found.student, found.group, probability=found.probability)
    assert "auc_group_1" in expected
    close({name: values[0] for name, values in shown.figures(-1).items()}, expected)
    assert {"AUC", "Brier score", "overconfidence"} <= set(shown.tables[2][0])
    from_one = FAIR.replace({"cat": "1", "dog": "2"}).assign(a=of_cat, b=1 - of_cat)  # classes 1 and 2, no class 0
    assert read_frame(from_one, probabilities=["a", "b"]).classes == ("1", "2")


# ---- errors

SCORED = FAIR.assign(
    p0=np.where(FAIR["prediction"] == "cat", 0.9, 0.1), p1=np.where(FAIR["prediction"] == "cat", 0.1, 0.9)
)
NAMED = FAIR.assign(id=range(800))


@pytest.mark.parametrize(
    ("table", "arguments", "words"),
    [
        (FAIR, ["--label", "truth"], "predictions.csv has no column truth; it has label, prediction, group"),
        (FAIR, ["--group", "group", "sex"], "no column sex"),
        (FAIR, ["--pair", "source"], "no column source"),
        (FAIR, ["--id", "name"], "no column name"),
        (FAIR, ["--teacher-prediction", "teacher"], "no column teacher"),
        (FAIR, ["--group", "label"], "columns of their own"),
        (FAIR.iloc[:0], [], "has no line below its header"),
        (FAIR.assign(group="f"), [], "column group has one group only, 'f'"),
        (FAIR.assign(group=""), [], "column group has no known groups"),
        (FAIR.assign(group=range(800)), [], "column group has 800 known groups; an audit compares 2 to 60"),
        (SCORED, ["--probabilities", "p0"], "a column for each of the 2 classes (cat, dog); got 1"),
        (SCORED, ["--probabilities", "p0", "p1", "p1"], "got 3"),
        (SCORED.assign(p0=1.5), ["--probabilities", "p0", "p1"], "p0 is '1.5' in row 1"),
        (SCORED.assign(p1=""), ["--probabilities", "p0", "p1"], "p1 is '' in row 1"),
        (SCORED.assign(p0=0.5), ["--probabilities", "p0", "p1"], "sum to"),
        (SCORED, ["--probabilities", "p1", "p0"], "in the order of the classes: cat, dog"),
        (FAIR, ["--teacher", FAIR.iloc[:-1]], "teacher.csv has 799 rows and predictions.csv 800"),
        (FAIR, ["--teacher", FAIR.iloc[::-1]], "differ in label, first in row 1 ('cat' and 'dog')"),
        (FAIR, ["--teacher", FAIR[["prediction"]]], "teacher.csv has neither the column label nor one that names"),
        (FAIR, ["--teacher", FAIR.replace({"cat": "x", "dog": "y"}).assign(label=FAIR["label"])], "teacher.csv: labels and"),
        (NAMED, ["--teacher", NAMED.iloc[5:]], "teacher.csv lacks 5 of the 800 rows of predictions.csv, as id '0'"),
        (NAMED.iloc[5:], ["--teacher", NAMED], "predictions.csv lacks 5 of the 800 rows of teacher.csv"),
        (NAMED, ["--teacher", NAMED.assign(id=0)], "teacher.csv: id '0' is in several rows"),
        (NAMED, ["--teacher", NAMED.assign(label=NAMED["label"].iloc[::-1].to_numpy())], "differ in label"),
        (FAIR, ["--teacher", "nowhere.csv"], "there is no file nowhere.csv"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line(tmp_path, capsys, table, arguments, words):
    arguments = [
        str(write(value, tmp_path / "teacher.csv")) if isinstance(value, pd.DataFrame) else value for value in arguments
    ]
    out = tmp_path / "audit.html"
    assert main(["audit", str(write(table, tmp_path / "predictions.csv")), "--out", str(out), *arguments]) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xff\x00\x81", "no")],
)
def test_files_that_are_no_tables_are_named(tmp_path, capsys, content, words):
    file = tmp_path / "p.csv"
    if content is not None:
        file.write_bytes(content)
    assert main(["audit", str(file)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "p.csv" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("out", "words"),
    [
        (".", "a folder"),
        ("p.csv", "take the place of"),
        ("p.csv/audit.html", "cannot write"),
        ("/proc/x/y.html", "cannot write"),
    ],
)
def test_a_page_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path, capsys, monkeypatch, out, words):
    monkeypatch.setattr(audit_findings, "measure", pytest.fail)
    file = write(FAIR, tmp_path / "p.csv")
    before = file.read_bytes()
    assert main(["audit", str(file), "--out", str(tmp_path / out)]) == 1
    assert words in capsys.readouterr().err
    assert file.read_bytes() == before


def test_the_page_may_go_into_a_new_folder(tmp_path):
    out = tmp_path / "new" / "folder" / "page.html"
    path, verdict = audit.audit(write(BIASED, tmp_path / "p.csv"), out=out)
    assert path == out
    assert out.is_file()
    assert verdict.startswith("Biased.")
