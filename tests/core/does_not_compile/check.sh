#!/bin/sh
# check.sh CASES.cpp COMPILER [ARGUMENT...]: case 0 compiles; each other case does not, and the
# compiler prints the sentence that the file expects for it.
cases=$1
shift
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
failures=0

if ! "$@" -fsyntax-only -DSIDESTEP_CASE=0 "$cases" >"$output" 2>&1; then
    echo "case 0 should compile:"
    cat "$output"
    exit 1
fi
count=$(grep -c '// EXPECT' "$cases")
[ "$count" -gt 0 ] || { echo "no cases in $cases"; exit 1; }
number=1
while [ "$number" -le "$count" ]; do
    expected=$(sed -n "s|.*// EXPECT $number: ||p" "$cases")
    if [ -z "$expected" ]; then
        echo "case $number: no EXPECT line"
        failures=1
    elif "$@" -fsyntax-only -DSIDESTEP_CASE="$number" "$cases" >"$output" 2>&1; then
        echo "case $number compiles; it should fail with: $expected"
        failures=1
    elif ! grep -qF -- "$expected" "$output"; then
        echo "case $number does not compile, but not for this reason: $expected"
        grep error "$output" | head -5
        failures=1
    else
        echo "case $number: ok"
    fi
    number=$((number + 1))
done
exit "$failures"
