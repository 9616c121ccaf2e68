# shellcheck shell=sh
# Read by login shells of a pixel.
if [ -d "$HOME/.local/bin" ] || [ -d "$HOME/.local/share/mise" ]; then
    case ":$PATH:" in
    *":$HOME/.local/share/mise/shims:"*) ;;
    *) PATH="$HOME/.local/share/mise/shims:$HOME/.local/bin:$PATH" ;;
    esac
    export PATH
fi
case $- in
*i*)
    if [ -n "${ZMX_SESSION:-}" ]; then
        alias detach='zmx detach'
    elif [ -n "${TMUX:-}" ]; then
        alias detach='tmux detach-client'
    fi
    if [ -n "${ZMX_SESSION:-}${TMUX:-}" ] && [ -z "${PIXELS_GREETED:-}" ]; then
        PIXELS_GREETED=1
        echo "This session stays: leave it with Ctrl+\\ or the word detach."
    fi
    ;;
esac
