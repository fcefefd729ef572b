    # After an applet's name, its own function completes as if the words before that name were not there.
    if (( CURRENT > 2 )) && [[ $words[2] == (@APPLETS@) ]]; then
        shift words
        (( CURRENT -= 1 ))
        (( $+functions[_$words[1]] )) || autoload -Uz _$words[1]
        _$words[1]
        return
    fi
