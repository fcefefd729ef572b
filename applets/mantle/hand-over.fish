# After an applet's name, its own script completes as if the words before that name were not there.
function __fish_mantle_in_applet
    set -l words (commandline -opc)
    test (count $words) -gt 1; and contains -- $words[2] @APPLETS@
end
function __fish_mantle_applet
    set -l words (commandline -opc) (commandline -ct)
    complete -C (string join ' ' -- $words[2..-1])
end
complete -c mantle -n __fish_mantle_in_applet -f -a '(__fish_mantle_applet)'
