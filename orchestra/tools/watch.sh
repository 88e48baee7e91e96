# Kills what the commands of a driver have started when the driver is gone, however it went.
#
# Standard input is a pipe that only the driver writes to and, before it runs, each command: `+PID` when a process
# group begins, `-PID` when it has ended. Its end is the driver's end. $1 is the mark of the session's commands.
trap '' HUP INT QUIT TERM PIPE
groups=' '
while IFS= read -r line; do
    group=${line#?}
    case $group in '' | 0* | 1 | *[!0-9]*) continue ;; esac
    case $line in
    +*) groups="$groups$group " ;;
    -*) case $groups in *" $group "*) groups="${groups%%" $group "*} ${groups#*" $group "}" ;; esac ;;
    esac
done
for group in $groups; do kill -KILL -- "-$group"; done
# On Linux also what left its group but bears the mark. A zombie has no environment any more, and writes nothing.
tries=0
while [ $tries -lt 100 ]; do
    left=
    if [ -r /proc/self/environ ]; then
        for file in $(grep -lszxF -- "$1" /proc/[0-9]*/environ); do
            pid=${file#/proc/}
            kill -KILL "${pid%/environ}"
            left=1
        done
    else
        for group in $groups; do kill -0 -- "-$group" && left=1; done
    fi
    [ -n "$left" ] || break
    tries=$((tries + 1))
    sleep 0.02
done
