#!/usr/bin/env python3
"""Report on the language of the code: comments, names, sizes, and public types that the glossary lacks.

Reads the Rust sources in `src` and `crates/*/src` that git tracks, without tests. The banned words are the list in
`docs/glossary.md`; a public type is in the glossary if its name stands there in backticks, or if its ending is listed
as a family (`…View`). Goals are orientation; `--check` exits with 1 if one is missed.
"""

import argparse
import collections
import pathlib
import re
import subprocess
import sys

COMMENT = re.compile(r"^\s*//[/!]? ?(.*)")
WORD = re.compile(r"[A-Za-z0-9']+")
FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([^)]*\))? )?(?:default )?(?:const )?(?:async )?fn (\w+)")
CONSTANT = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?const ([A-Z]\w*)\s*:")
TYPE = re.compile(r"^\s*(pub(?:\([^)]*\))? )?(?:struct|enum|trait|type) ([A-Z]\w*)")
TEST_MODULE = re.compile(r"^(\s*)#\[cfg\(test\)\]$")
MODULE = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?mod (\w+)( \{|;)")

# Measure: goal. The first four and "other banned words" are per 1,000 words of comments.
GOALS = {
    "who, whom, whose, whoever": 0.7,
    "free relatives (what is, what waits)": 0.3,
    "somebody, nobody, anybody, everybody": 0.3,
    "tell, tells, told": 0.2,
    "other banned words": 1.0,
    "doc comments of at most 3 words": 50,
    "one-word functions, %": 45,
    "one-word constants, %": 30,
    "type names repeated in a crate": 12,
    "function lines, 90th percentile": 25,
    "function lines, 99th percentile": 45,
    "function lines, longest": 90,
    "files over 500 lines": 0,
    "public types missing in the glossary": 0,
}
WHO, RELATIVE, SOMEBODY, TELL, OTHER = list(GOALS)[:5]
MAX_FILE_LINES = 500


def rust_files(root):
    """The tracked sources outside tests."""
    command = ["git", "-C", str(root), "ls-files", "--", "src/*.rs", "crates/*/src/*.rs"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    files = {name: (root / name).read_text().split("\n") for name in names if (root / name).exists()}
    left_out = [path for name, lines in files.items() for path in test_files(name, lines)]
    return {
        name: without_tests(lines)
        for name, lines in files.items()
        if not any(name == f"{path}.rs" or name.startswith(f"{path}/") for path in left_out)
    }


def test_files(name, lines):
    """Paths, without their ending, of modules that `name` declares for tests only."""
    path = pathlib.PurePosixPath(name)
    folder = path.parent if path.stem in ("lib", "main", "mod") else path.with_suffix("")
    for above, line in zip(lines, lines[1:]):
        module = MODULE.match(line)
        if TEST_MODULE.match(above) and module and module[2] == ";":
            yield str(folder / module[1])


def without_tests(lines):
    """The lines outside `#[cfg(test)] mod … { … }`; rustfmt ends a block at its own indentation."""
    kept, end = [], None
    for number, line in enumerate(lines):
        if end is not None:
            end = None if line == end else end
            continue
        start = TEST_MODULE.match(line)
        rest = next((text for text in lines[number + 1 :] if not text.lstrip().startswith("#[")), "")
        module = MODULE.match(rest)
        if start and module and module[2] == " {":
            end = start[1] + "}"
            continue
        kept.append(line)
    return kept


def comments(lines):
    """Blocks of neighbouring comment lines: first line number, text, whether it documents an item."""
    block, first, is_doc = [], 0, False
    for number, line in enumerate([*lines, ""], start=1):
        comment = COMMENT.match(line)
        if comment:
            if not block:
                first, is_doc = number, line.lstrip().startswith("///")
            block.append(comment[1])
        elif block:
            yield first, " ".join(block), is_doc
            block = []


def function_lengths(lines):
    """Name, first line number and length of each function with a body."""
    for number, line in enumerate(lines):
        function = FUNCTION.match(line)
        if not function:
            continue
        indentation = function[1]
        for last in range(number, len(lines)):
            text = lines[last]
            if text == indentation + "}" or (last == number and text.endswith("}")):
                yield function[2], number + 1, last - number + 1
                break
            if text.endswith(";") and len(text) - len(text.lstrip()) == len(indentation):
                break


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else 0


class Glossary:
    """The public names and the banned words of `docs/glossary.md`."""

    def __init__(self, text):
        self.names = set(re.findall(r"`([A-Z]\w*)`", text))
        self.families = tuple(re.findall(r"`…([A-Z]\w*)`", text))
        listing = text.split("<!-- banned", 1)[1].split("```")[1].split("\n", 1)[1]
        self.banned = [phrase.strip() for phrase in re.split(r"[,\n]", listing) if phrase.strip()]

    def lacks(self, name):
        is_stored_version = re.search(r"\wV\d+$", name) is not None
        is_of_family = any(name.endswith(ending) and name != ending for ending in self.families)
        return name not in self.names and not is_stored_version and not is_of_family

    def measure_of(self, phrase):
        """The measure that counts this phrase."""
        for measure, pattern in ((WHO, r"who"), (RELATIVE, r"what "), (SOMEBODY, r"\w+body$"), (TELL, r"tell|told")):
            if re.match(pattern, phrase):
                return measure
        return OTHER


def report(files, glossary):
    """The value of each measure, and the places behind it."""
    counts, places = collections.Counter(), collections.defaultdict(list)
    phrases = collections.Counter()
    functions, constants, types, lengths = [], [], collections.Counter(), []
    pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, glossary.banned), key=len, reverse=True)) + r")\b")
    words = 0
    for name, lines in files.items():
        crate = ("/" + name).split("/src/")[0]
        for number, text, is_doc in comments(lines):
            size = len(WORD.findall(text))
            words += size
            if is_doc and size <= 3:
                counts["doc comments of at most 3 words"] += 1
                places["doc comments of at most 3 words"].append(f"{name}:{number}: {text}")
            for phrase in pattern.findall(text.lower()):
                measure = glossary.measure_of(phrase)
                counts[measure] += 1
                phrases[phrase] += 1
                places[measure].append(f"{name}:{number}: {phrase}")
        for number, line in enumerate(lines, start=1):
            if function := FUNCTION.match(line):
                functions.append(function[2])
            if constant := CONSTANT.match(line):
                constants.append(constant[1])
            declared = TYPE.match(line)
            # An associated type is named by its trait.
            if declared and not re.match(r"\s+type ", line):
                types[crate, declared[2]] += 1
                if declared[1] == "pub " and glossary.lacks(declared[2]):
                    places["public types missing in the glossary"].append(f"{name}:{number}: {declared[2]}")
        for function, number, length in function_lengths(lines):
            lengths.append(length)
            if length > GOALS["function lines, longest"]:
                places["function lines, longest"].append(f"{name}:{number}: {function}, {length} lines")
        if len(lines) - 1 > MAX_FILE_LINES:
            places["files over 500 lines"].append(f"{name}: {len(lines) - 1} lines")
    places["type names repeated in a crate"] = [
        f"{crate.lstrip('/') or '(root)'}: {name}, {count} times" for (crate, name), count in types.items() if count > 1
    ]
    for measure in list(GOALS)[:5]:
        counts[measure] = 1000 * counts[measure] / max(words, 1)
    for measure, names in (("one-word functions, %", functions), ("one-word constants, %", constants)):
        counts[measure] = 100 * sum("_" not in name for name in names) / max(len(names), 1)
    counts["function lines, 90th percentile"] = percentile(lengths, 0.9)
    counts["function lines, 99th percentile"] = percentile(lengths, 0.99)
    counts["function lines, longest"] = max(lengths, default=0)
    for measure in ("type names repeated in a crate", "files over 500 lines", "public types missing in the glossary"):
        counts[measure] = len(places[measure])
    return counts, places, phrases, words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--list", action="store_true", help="print the places behind each missed goal")
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    options = parser.parse_args()
    glossary = Glossary((options.root / "docs/glossary.md").read_text())
    files = rust_files(options.root)
    counts, places, phrases, words = report(files, glossary)
    missed = [measure for measure, goal in GOALS.items() if counts[measure] > goal]
    for measure, goal in GOALS.items():
        state = "over" if measure in missed else "ok  "
        print(f"{state} {measure}: {counts[measure]:.1f} (goal: at most {goal})")
        if options.list and measure in missed:
            print("".join(f"       {place}\n" for place in places[measure]), end="")
    print("\nBanned words per 1,000 words of comments, the most frequent first:")
    for phrase, count in phrases.most_common(None if options.list else 15):
        print(f"  {phrase}: {1000 * count / max(words, 1):.2f}")
    print(f"\n{len(files)} files, {words} words of comments; {len(missed)} of {len(GOALS)} goals missed")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
