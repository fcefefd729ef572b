# @MARK@
_@NAME@() {
    local -a answer words=("${COMP_WORDS[@]:0:COMP_CWORD}")
    # bash hands over an empty word where the line ends in a sign that separates words.
    mapfile -t answer < <("${1/#\~\//$HOME/}" __complete bash "${words[@]}" "${COMP_WORDS[COMP_CWORD]}" 2>/dev/null)
    COMPREPLY=()
    local word
    for word in "${answer[@]:1}"; do
        COMPREPLY+=("$word")
    done
    case ${answer[0]} in
    files)
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$2")
        ;;
    dirs)
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$2")
        ;;
    esac
}
complete -F _@NAME@ @NAME@
