# @MARK@
function __@NAME@_words
    set -l given (commandline -opc)
    set -l typed (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $given[1])
    set -l answer ($program __complete fish $given "$typed" 2>/dev/null)
    test (count $answer) -gt 1; and printf '%s\n' $answer[2..-1]
    # What is before = is an option, not a part of the path.
    set -l path (string replace -r '^--[^=]*=' '' -- "$typed")
    set -l option (string sub -l (math (string length -- "$typed") - (string length -- "$path")) -- "$typed")
    switch "$answer[1]"
        case files
            printf "$option%s\n" (__fish_complete_path "$path")
        case dirs
            printf "$option%s\n" (__fish_complete_directories "$path" '')
    end
end
complete -c @NAME@ -f -a '(__@NAME@_words)'
