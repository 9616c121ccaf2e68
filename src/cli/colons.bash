# shellcheck shell=bash
# bash splits words at colons. Join NAME:LABEL before completion, and remove the
# text before the colon from the candidates.
_pixels_with_colons() {
    local -a words=()
    local i count=0 current=0 glued=""
    for i in "${!COMP_WORDS[@]}"; do
        if ((i > 0)) && [[ $glued || ${COMP_WORDS[i]} == : ]]; then
            words[count - 1]+=${COMP_WORDS[i]}
        else
            words[count]=${COMP_WORDS[i]}
            count=$((count + 1))
        fi
        glued=""
        [[ ${COMP_WORDS[i]} == : ]] && glued=yes
        ((i == COMP_CWORD)) && current=$((count - 1))
    done
    local whole=${words[current]} given=$2
    local -a COMP_WORDS=("${words[@]}")
    local COMP_CWORD=$current
    if [[ $whole == *:* && $whole != "$given" ]]; then
        _clap_complete_pixels "$1" "$whole" "$3"
        COMPREPLY=("${COMPREPLY[@]#"${whole%:*}:"}")
    else
        _clap_complete_pixels "$@"
    fi
}
if ((BASH_VERSINFO[0] > 4 || (BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] >= 4))); then
    complete -o nospace -o bashdefault -o nosort -F _pixels_with_colons pixels
else
    complete -o nospace -o bashdefault -F _pixels_with_colons pixels
fi
