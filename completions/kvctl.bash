# bash completion for kvctl. Made by scripts/generate: do not edit.
#
# Commands, options and choices are in here. Only what is on this node or in the cluster is asked for:
# kvctl complete KIND -- WORD...

# What there is behind the command $1. A value is of a KIND that kvctl completes, :ONE,OF,THESE, files, interfaces,
# program, or - (anything).
_kvctl_about() {
    commands='' options='' values='' arguments=''
    case $1 in
    'kvctl')
        commands='egress doctor lab'
        options='--version --debug -h --help'
        ;;
    'kvctl egress')
        commands='compute apply diff list show trace verify echo flush watch move wait'
        options='-h --help'
        ;;
    'kvctl egress compute')
        options='-f --filename --kubeconfig --context -n --namespace -o --output --family -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip'
        values='-f=files --filename=files --kubeconfig=files --context=contexts -n=namespaces --namespace=namespaces -o=:table,wide,json,yaml,iptables --output=:table,wide,json,yaml,iptables --family=:ipv4,ipv6 --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        arguments='services...'
        ;;
    'kvctl egress apply')
        options='-f --filename --kubeconfig --context -n --namespace --dry-run -o --output --prune --with-vip --keep-connections --force --lock-timeout -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='-f=files --filename=files --kubeconfig=files --context=contexts -n=namespaces --namespace=namespaces -o=:table,wide,json,yaml --output=:table,wide,json,yaml --lock-timeout=- --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        arguments='services...'
        ;;
    'kvctl egress diff')
        options='-f --filename --kubeconfig --context -n --namespace -o --output --family --prune --with-vip -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='-f=files --filename=files --kubeconfig=files --context=contexts -n=namespaces --namespace=namespaces -o=:table,wide,json,yaml,iptables --output=:table,wide,json,yaml,iptables --family=:ipv4,ipv6 --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        arguments='services...'
        ;;
    'kvctl egress list')
        options='-f --filename --kubeconfig --context --cluster --watch --interval -o --output -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='-f=files --filename=files --kubeconfig=files --context=contexts --interval=- -o=:table,wide,json,yaml --output=:table,wide,json,yaml --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        ;;
    'kvctl egress show')
        options='-f --filename --kubeconfig --context --cluster -n --namespace -o --output -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='-f=files --filename=files --kubeconfig=files --context=contexts -n=namespaces --namespace=namespaces -o=:table,wide,json,yaml --output=:table,wide,json,yaml --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        arguments='services...'
        ;;
    'kvctl egress trace')
        options='--from --pod --to --proto --source-port --in-interface -f --filename --kubeconfig --context -o --output -h --help'
        values='--from=addresses --pod=pods --to=- --proto=:tcp,udp,sctp,icmp --source-port=- --in-interface=interfaces -f=files --filename=files --kubeconfig=files --context=contexts -o=:table,wide,json,yaml --output=:table,wide,json,yaml'
        ;;
    'kvctl egress verify')
        options='-n --namespace --from --to --proto --expect --count --interval --timeout --netns --watch --every --assume-vip --nftables --no-nftables -o --output -h --help'
        values='-n=namespaces --namespace=namespaces --from=addresses --to=- --proto=:tcp,udp,both --expect=- --count=- --interval=- --timeout=- --netns=- --every=- -o=:table,wide,json,yaml --output=:table,wide,json,yaml'
        arguments='services'
        ;;
    'kvctl egress echo')
        options='--listen --port --tcp --no-tcp --udp --no-udp --connections --log -h --help'
        values='--listen=- --port=- --connections=-'
        ;;
    'kvctl egress flush')
        options='-n --namespace --all -o --output --keep-connections --force --lock-timeout --nftables --no-nftables -h --help'
        values='-n=namespaces --namespace=namespaces -o=:table,wide,json,yaml --output=:table,wide,json,yaml --lock-timeout=-'
        arguments='services...'
        ;;
    'kvctl egress watch')
        options='--kubeconfig --context --keep-connections --once --clean --listen --events --no-events --readiness-gates --elect -o --output --log-format -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='--kubeconfig=files --context=contexts --listen=- -o=:table,wide,json,yaml --output=:table,wide,json,yaml --log-format=- --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        ;;
    'kvctl egress move')
        options='-n --namespace --to --timeout --kubeconfig --context -h --help'
        values='-n=namespaces --namespace=namespaces --to=nodes --timeout=- --kubeconfig=files --context=contexts'
        arguments='services'
        ;;
    'kvctl egress wait')
        options='--pod -n --namespace --agent --timeout --on-timeout -h --help'
        values='--pod=- -n=namespaces --namespace=namespaces --agent=- --timeout=- --on-timeout=:fail,continue'
        ;;
    'kvctl doctor')
        options='-f --filename --kubeconfig --context --cluster -o --output -h --help --pod-cidr --service-cidr --exclude-cidr --vip-range --node --interface --without-vip --assume-vip --nftables --no-nftables'
        values='-f=files --filename=files --kubeconfig=files --context=contexts -o=:table,wide,json,yaml --output=:table,wide,json,yaml --pod-cidr=- --service-cidr=- --exclude-cidr=- --vip-range=- --node=nodes --interface=interfaces --without-vip=:drop,node-address'
        ;;
    'kvctl lab')
        commands='demo up down exec'
        options='-h --help'
        ;;
    'kvctl lab demo')
        options='--nftables --no-nftables --manifest --workers -h --help'
        values='--workers=-'
        ;;
    'kvctl lab up')
        options='--nftables --no-nftables -h --help'
        ;;
    'kvctl lab down')
        options='-h --help'
        ;;
    'kvctl lab exec')
        options='-h --help'
        arguments=':pod,worker,outside,peer,server program...'
        ;;
    esac
}

# The kind of the value behind the option $1; empty: it takes none.
_kvctl_kind() {
    local pair
    kind=''
    for pair in $values; do
        [[ ${pair%%=*} == "$1" ]] && kind=${pair#*=}
    done
}

# Values of the kind $1 that begin with $2.
_kvctl_offer() {
    local value choices=${1#:}
    case $1 in
    :*) for value in ${choices//,/ }; do _kvctl_add "$value" "$2"; done ;;
    interfaces) for value in /sys/class/net/*; do _kvctl_add "${value##*/}" "$2"; done ;;
    files)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
        ;;
    program) mapfile -t COMPREPLY < <(compgen -c -- "$2") ;;
    - | '') ;;
    *)
        while IFS= read -r value; do
            _kvctl_add "$value" "$2"
        done < <(command kvctl complete "$1" -- "${words[@]:0:${#words[@]}-1}" 2>/dev/null </dev/null)
        ;;
    esac
}

# Only what is a plain word to the shell: names come from others.
_kvctl_add() {
    [[ $1 == "$2"* && $1 =~ ^[A-Za-z0-9._:/@+-]+$ ]] && COMPREPLY+=("$1")
}

# The kind of the argument that comes after $1 others.
_kvctl_argument() {
    local -a kinds
    read -ra kinds <<<"$arguments"
    local last=$((${#kinds[@]} - 1))
    kind=''
    if (($1 <= last)); then
        kind=${kinds[$1]%...}
    elif ((last >= 0)) && [[ ${kinds[last]} == *... ]]; then
        kind=${kinds[last]%...}
    fi
}

_kvctl() {
    local IFS=$' \t\n' rest=${COMP_LINE:0:COMP_POINT} path=kvctl
    local commands options values arguments kind piece lead word cur head='' strip ended='' place=0 expects='' i
    local -a words=()
    COMPREPLY=()
    # bash splits words at : and =, too. What has no blank before it belongs to the word before.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        lead=${rest%%[![:space:]]*}
        rest=${rest#"$lead"}
        piece=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && piece=$rest
        rest=${rest#"$piece"}
        if [[ ! $lead && i -gt 0 && ( $piece || $i -lt $COMP_CWORD ) ]]; then
            words[${#words[@]} - 1]+=$piece
        else
            words+=("$piece")
        fi
    done
    cur=${words[${#words[@]} - 1]}
    [[ $piece == [:=]* ]] && piece=''
    strip=${cur%"$piece"}

    _kvctl_about "$path"
    for word in "${words[@]:1:${#words[@]}-2}"; do
        if [[ $expects ]]; then
            expects=''
        elif [[ $ended ]]; then
            ((place += 1))
        elif [[ $word == -- ]]; then
            ended=1
        elif [[ $word == -* ]]; then
            _kvctl_kind "$word"
            expects=$kind
        elif [[ " $commands " == *" $word "* ]]; then
            path+=" $word"
            _kvctl_about "$path"
        else
            ((place += 1))
            # What follows the name of a place is a program's own.
            [[ $arguments == *program* ]] && ended=1
        fi
    done

    if [[ $expects ]]; then
        _kvctl_offer "$expects" "$cur"
    elif [[ ! $ended && $cur == --*=* ]]; then
        head=${cur%%=*}=
        _kvctl_kind "${cur%%=*}"
        _kvctl_offer "$kind" "${cur#*=}"
    elif [[ ! $ended && $cur == -* ]]; then
        for word in $options; do _kvctl_add "$word" "$cur"; done
    elif [[ $commands ]]; then
        for word in $commands; do _kvctl_add "$word" "$cur"; done
    else
        _kvctl_argument "$place"
        _kvctl_offer "$kind" "$cur"
    fi
    COMPREPLY=("${COMPREPLY[@]/#/"$head"}")
    COMPREPLY=("${COMPREPLY[@]#"$strip"}")
}

complete -F _kvctl kvctl
