"""Passes when an Autobahn report holds exactly the expected cases with exactly the expected results.

    gate.py EXPECTED.json REPORT/index.json CASES…

CASES is a group (12), a pattern (12.*.4) or a case (12.4.18). EXPECTED.json: `cases` has the number of cases of each;
`informational` the cases that the suite itself does not judge; `exceptions` maps a case, or the first two numbers of
several, to {"behavior": …, "behaviorClose": …, "reason": …}. An exception that no longer applies fails too.
"""

import fnmatch
import json
import pathlib
import sys


def case_order(case):
    return [int(number) for number in case.split(".")]


def count_of(wanted, results):
    pattern = wanted if "." in wanted else f"{wanted}.*"
    return len(fnmatch.filter(results, pattern))


def problem_of(case, result, expected):
    """One line on what is wrong with a case's result, or None."""
    found = (result["behavior"], result["behaviorClose"])
    exceptions = expected["exceptions"]
    exception = exceptions.get(case) or exceptions.get(case.rpartition(".")[0])
    if exception:
        excused = (exception["behavior"], exception["behaviorClose"])
        return None if found == excused else f"{case}: excused as {excused}, but is {found}: correct the list of exceptions"
    behavior = "INFORMATIONAL" if case in expected["informational"] else "OK"
    if found[0] != behavior:
        return f"{case}: {found[0]}, not {behavior}"
    if found[1] not in ("OK", "INFORMATIONAL"):
        return f"{case}: closes {found[1]}"
    return None


def problems(expected, results, asked):
    """Every way in which the results of what was asked for differ from what is expected."""
    found = []
    for wanted in asked:
        count = count_of(wanted, results)
        if count != expected["cases"][wanted]:
            found.append(f"{wanted}: {count} cases ran, not {expected['cases'][wanted]}")
    listed = [case for case in [*expected["informational"], *expected["exceptions"]] if case.split(".")[0] in asked]
    missing = [case for case in listed if case not in results and not count_of(f"{case}.*", results)]
    found += [f"{case}: listed, but it did not run" for case in sorted(missing, key=case_order)]
    for case in sorted(results, key=case_order):
        found.append(problem_of(case, results[case], expected))
    return [line for line in found if line]


def main():
    expected = json.loads(pathlib.Path(sys.argv[1]).read_text())
    report = pathlib.Path(sys.argv[2])
    agents = json.loads(report.read_text()) if report.exists() else {}
    results = next(iter(agents.values()), {})
    found = problems(expected, results, sys.argv[3:])
    for line in found:
        print(f"autobahn: {line}")
    print(f"autobahn: {len(results)} cases ran, {len(found)} problems")
    return 1 if found or not results else 0


if __name__ == "__main__":
    sys.exit(main())
