#compdef @NAME@
# @MARK@
_@NAME@() {
    local program=${(Q)words[1]}
    local -a answer offered
    answer=("${(@f)$(${program/#\~\//$HOME/} __complete zsh "${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    offered=("${(@)answer[2,-1]}")
    [[ $PREFIX == --*=* ]] && compset -P 1 '*='
    (( $#offered )) && _describe -V @NAME@ offered
    case $answer[1] in
    files) _files ;;
    dirs) _path_files -/ ;;
    esac
}
if [[ $funcstack[1] == _@NAME@ ]]; then
    _@NAME@ "$@"
else
    compdef _@NAME@ @NAME@
fi
