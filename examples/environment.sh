# Sourced by scripts that run in a virtual environment of their own: defines make_environment, which creates $ENV
# and installs drstool in it. Source it in the root of the repository, then run
#   make_environment EXTRA      (EXTRA: "" or "[test]")

ENV=${DRSTOOL_ENV:-.venv}

find_python() {
    for name in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "no Python 3.11 or later found; set PYTHON to its path" >&2
    exit 1
}

make_environment() {
    if [ ! -x "$ENV/bin/python" ]; then
        echo "Creating a virtual environment in $ENV (torch and its libraries take several GB) ..." >&2
        "$(find_python)" -m venv "$ENV"
    fi
    "$ENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$1"
    PATH=$(cd "$ENV/bin" && pwd):$PATH
    export PATH
}
