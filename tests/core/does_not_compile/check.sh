#!/bin/sh
# check.sh CASES.cpp COMPILER [ARGUMENT...]: case 0 compiles. Each other case does not, and the first
# error is the sentence that the file expects for it ("COMPILER 3: text" where it is the compiler's
# own), of at most so many lines in all; with "NAMES 3: text" that text is somewhere in them, too. The
# headers are compiled once: each case takes its own part of a second.
cases=$1
shift
most_lines=25
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
output=$work/output
failures=0

grep '^#include' "$cases" >"$work/headers.hpp"
"$@" -x c++-header "$work/headers.hpp" -o "$work/headers.hpp.gch" || exit 1
compiles() {
    "$@" -include "$work/headers.hpp" -fsyntax-only "-DSIDESTEP_CASE=$number" "$cases" \
        >"$output" 2>&1
}

number=0
if ! compiles "$@"; then
    echo "case 0 should compile:"
    cat "$output"
    exit 1
fi
count=$(grep -cE '// (EXPECT|COMPILER) [0-9]+: ' "$cases")
[ "$count" -gt 0 ] || { echo "no cases in $cases"; exit 1; }
number=1
while [ "$number" -le "$count" ]; do
    expected=$(sed -nE "s,.*// (EXPECT|COMPILER) $number: ,,p" "$cases")
    names=$(sed -n "s,.*// NAMES $number: ,,p" "$cases")
    if [ -z "$expected" ]; then
        echo "case $number: no EXPECT line"
        failures=1
    elif compiles "$@"; then
        echo "case $number compiles; it should fail with: $expected"
        failures=1
    elif ! grep -m 1 'error:' "$output" | grep -qF -- "$expected"; then
        echo "case $number does not compile, but its first error is not: $expected"
        grep error: "$output" | head -5
        failures=1
    elif ! grep -qF -- "$names" "$output"; then
        echo "case $number does not compile, but nothing says: $names"
        cat "$output"
        failures=1
    elif [ "$(wc -l <"$output")" -gt "$most_lines" ]; then
        echo "case $number: more than $most_lines lines"
        cat "$output"
        failures=1
    else
        echo "case $number: ok, $(wc -l <"$output") lines"
    fi
    number=$((number + 1))
done
exit "$failures"
