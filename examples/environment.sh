# Sourced by the scripts that bring their own environment; makes $ENV and installs drstool there.
# Usage: . examples/environment.sh EXTRA   (EXTRA: "" or "[test]"), from the repository's root.

ENV=${DRSTOOL_ENV:-.venv}

find_python() {
    for name in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "needs Python 3.11 or later; set PYTHON to one" >&2
    exit 1
}

make_environment() {
    if [ ! -x "$ENV/bin/python" ]; then
        echo "Making an environment in $ENV (torch and its libraries take several GB) ..." >&2
        "$(find_python)" -m venv "$ENV"
    fi
    "$ENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$1"
    PATH=$(cd "$ENV/bin" && pwd):$PATH
    export PATH
}
