
# After an applet's name, its own function completes as if the words before that name were not there.
_mantle_or_applet() {
    case ${COMP_WORDS[1]} in
    @APPLETS@)
        if ((COMP_CWORD > 1)); then
            local applet=${COMP_WORDS[1]}
            # Its script lies beside this one.
            declare -F "_$applet" >/dev/null || source "${BASH_SOURCE[0]%/*}/$applet" || return
            COMP_WORDS=("${COMP_WORDS[@]:1}")
            ((COMP_CWORD -= 1))
            "_$applet" "$applet" "$2" "$3"
            return
        fi
        ;;
    esac
    _mantle "$@"
}
