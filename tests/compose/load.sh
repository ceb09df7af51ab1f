#!/bin/sh
# load.sh NAME COUNT [SECONDS]: pushes so many commits of a small repository, one after the other, and prints their
# correlations. Each build takes so many seconds (0). A push that no broker took is tried again.
# Runs in the container of `lota`.
set -eu
cd "$(mktemp -d)"
git init --quiet --initial-branch=main "$1" && cd "$1"
cat > .lotabots.yaml <<'Y'
version: 1
test: {suites: {unit: {run: "test -s out && printf '1..1\\nok 1 - copied\\n'"}}}
Y
echo "build: {steps: [{name: copy, run: sleep ${3:-0} && cp number out}], artifacts: [out]}" >> .lotabots.yaml
for number in $(seq "$2"); do
    echo "$1 $number" > number
    git add --all
    git -c user.name=t -c user.email=t@example.org commit --quiet --message "$number"
    until said=$(lota push .); do sleep 1; done
    echo "$said" | sed -n 's/^ *id and correlation //p'
done
