# Sourced by the shell scripts of this folder: --help prints the comment at a script's top, what it doesn't know is refused.

# takes [PATTERN ...] -- [ARGUMENT ...]: end here with the help, or with 64 at the first argument that no pattern matches.
takes() {
    local known=(--help) given pattern
    while [ "$1" != -- ]; do
        known+=("$1")
        shift
    done
    shift
    for given in "$@"; do
        case $given in -h | --help) help ;; esac
        for pattern in "${known[@]}"; do
            # shellcheck disable=SC2053 # a pattern
            [[ $given == $pattern ]] && continue 2
        done
        echo "$0: unknown argument '$given'; see $0 --help" >&2
        exit 64
    done
}

help() {
    sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"
    exit 0
}
