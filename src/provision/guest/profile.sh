# shellcheck shell=sh
# Login profile of pixels: PATH, and aliases in console sessions.
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
        echo "Persistent session: detach with Ctrl+\\ or the command detach."
    fi
    ;;
esac
