# Runs a command beside its services. Everything is inside one run of the sandbox, because each run has a network of its
# own. In front of it stand calls of `service`, one for each, and after them one of `finish`.
[ -n "$BASH_VERSION" ] || { echo "services are started by bash, and it is not installed here" >&2; exit 125; }
work=$(mktemp -d)
names=() pids=() readers=()

# What a service prints, each line marked with its name; the caller takes the mark away.
say() { printf '\036%s\037%s\n' "$1" "$2"; }
# Why it cannot be used; the caller hears it as such.
trouble() { printf '\036%s\036%s\n' "$1" "$2"; }

# Nobody listens there.
is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
  local port
  for _ in {1..200}; do
    port=$((20000 + RANDOM % 10000))
    case " $ports " in *" $port "*) continue ;; esac
    if is_free "$port"; then ports="$ports $port"; REPLY=$port; return 0; fi
  done
  return 1
}

answers() {
  local status
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\n\r\n' "$2" "$1" >&3
  IFS=' ' read -r -t 5 _ status _ <&3
  [[ $status == 2?? ]]
}

# is_ready INDEX PORT KIND WHAT
is_ready() {
  case $3 in
    tcp) ! is_free "${4/\$PORT/$2}" ;;
    http) (answers "$2" "$4") 2>/dev/null ;;
    log) [[ -e $work/$1.ready ]] ;;
  esac
}

# read_lines INDEX NAME TEXT: marks what a service prints, and looks for the text that says it is ready.
read_lines() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    say "$2" "$line"
    if [[ -n $3 && $line == *"$3"* ]]; then : >"$work/$1.ready"; fi
  done <"$work/$1.out" 2>/dev/null
}

# service NAME VARIABLE KIND WHAT SECONDS SCRIPT [NAME=VALUE ...]
service() {
  local name=$1 variable=$2 kind=$3 what=$4 seconds=$5 script=$6 i=${#pids[@]} text=
  shift 6
  free_port || { trouble "$name" "found no free port"; finish; }
  local port=$REPLY data=$work/$i.data
  mkdir "$data" && mkfifo "$work/$i.out" || { trouble "$name" "could not be given a folder"; finish; }
  if [[ $kind == log ]]; then text=$what; fi
  read_lines "$i" "$name" "$text" &
  readers+=($!)
  # A session of its own, so that all of it can be ended.
  env PORT="$port" DATA="$data" "$@" setsid "$BASH" -c "$script" </dev/null >"$work/$i.out" 2>&1 &
  pids+=($!) names+=("$name")
  export "$variable=$port"
  local until=$((SECONDS + seconds))
  until is_ready "$i" "$port" "$kind" "$what"; do
    if ! kill -0 "${pids[i]}" 2>/dev/null; then
      tell_end "$i" "before it was ready"
      finish
    elif ((SECONDS >= until)); then
      trouble "$name" "was not ready within $seconds s"
      finish
    fi
    sleep 0.1
  done
}

tell_end() {
  wait "${pids[$1]}" 2>/dev/null
  trouble "${names[$1]}" "ended with exit code $? $2"
}

# Whether one of these processes is there.
any_left() {
  local pid
  for pid in "$@"; do kill -0 "$pid" 2>/dev/null && return 0; done
  return 1
}

# wait_for SECONDS PID...
wait_for() {
  local until=$((SECONDS + $1))
  shift
  while any_left "$@" && ((SECONDS < until)); do sleep 0.05; done
}

stop_all() {
  local i signal
  for signal in TERM KILL; do
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do kill -$signal -- -"${pids[i]}" 2>/dev/null; done
    wait_for 5 "${pids[@]}"
  done
  # What they said last; a process that left its session may hold a pipe open.
  wait_for 2 "${readers[@]}"
  kill "${readers[@]}" 2>/dev/null
  rm -rf "$work" 2>/dev/null
}

# finish [SCRIPT]: runs the command, ends the services, and ends with the command's own status.
finish() {
  local status=125 i
  if [[ $# -gt 0 ]]; then
    "$BASH" -c "$1"
    status=$?
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" 2>/dev/null || tell_end "$i" "while it was needed"
    done
  fi
  stop_all
  exit "$status"
}
