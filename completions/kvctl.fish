# fish completion for kvctl. Made by scripts/generate: do not edit.
#
# Commands, options and choices are in here. Only what is on this node or in the cluster is asked for:
# kvctl complete KIND -- WORD...

# Whether the line is at the command $argv[1]; with $argv[2] also whether it has so many arguments: none, some.
function __kvctl_at
    set -l path kvctl
    set -l count none
    for word in (commandline -opc)[2..]
        if contains -- "$path $word" $__kvctl_paths
            set path "$path $word"
        else if not string match -q -- '-*' $word
            set count some
        end
    end
    test "$path" = "$argv[1]"; and begin
        test -z "$argv[2]"; or test "$count" = "$argv[2]"
    end
end

# Values of the kind $argv[1], for the line as it is before the cursor.
function __kvctl_values
    command kvctl complete $argv[1] -- (commandline -opc) 2>/dev/null </dev/null
end

function __kvctl_interfaces
    string replace -- /sys/class/net/ '' /sys/class/net/*
end

complete -c kvctl -f

set -g __kvctl_paths 'kvctl' 'kvctl egress' 'kvctl egress compute' 'kvctl egress apply' 'kvctl egress diff' 'kvctl egress list' 'kvctl egress show' 'kvctl egress trace' 'kvctl egress verify' 'kvctl egress echo' 'kvctl egress flush' 'kvctl egress watch' 'kvctl egress move' 'kvctl egress wait' 'kvctl doctor' 'kvctl lab' 'kvctl lab demo' 'kvctl lab up' 'kvctl lab down' 'kvctl lab exec'

# kvctl
complete -c kvctl -n '__kvctl_at \'kvctl\'' -a egress -d 'Rewrite the source address of pods, and see that it works.'
complete -c kvctl -n '__kvctl_at \'kvctl\'' -a doctor -d 'Can egress work on this host? Each check with what mends it.'
complete -c kvctl -n '__kvctl_at \'kvctl\'' -a lab -d 'A pod, a worker and the outside world on this machine, to try egress out.'
complete -c kvctl -n '__kvctl_at \'kvctl\'' -l version -d 'Show the version and exit'
complete -c kvctl -n '__kvctl_at \'kvctl\'' -l debug -d 'Show where an error came from'
complete -c kvctl -n '__kvctl_at \'kvctl\'' -s h -l help -d 'Show this message and exit'

# kvctl egress
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a compute -d 'Show what the objects ask for, and what keeps them from it; needs no root.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a apply -d 'Make the kernel\'s rules what the objects ask for.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a diff -d 'Show what apply would change; exit status 3 if anything.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a list -d 'List the Services with egress rules on this node.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a show -d 'Show Services in depth: problems, rules, connections.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a trace -d 'Tell what becomes of a packet of a pod, and by which rule.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a verify -d 'Send from a pod, and tell which source the other end sees.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a echo -d 'Answer with the source that was seen: the other end of verify.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a flush -d 'Remove kvctl\'s rules, and only those.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a watch -d 'Keep this node\'s rules right, in a cluster: the agent of a DaemonSet.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a move -d 'Hand the VIP of a Service over to another node.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -a wait -d 'Wait until a pod\'s rules are in the kernel; for init containers.'
complete -c kvctl -n '__kvctl_at \'kvctl egress\'' -s h -l help -d 'Show this message and exit'

# kvctl egress compute
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -s o -l output -x -a 'table wide json yaml iptables' -d 'How to print: table, wide, json, yaml or iptables'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l family -x -a 'ipv4 ipv6' -d 'Which one -o iptables prints'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l node -x -a '(__kvctl_values nodes)' -d 'Only the pods of this Node'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress compute\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'

# kvctl egress apply
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l dry-run -d 'Change nothing; print what diff prints, with exit status 0'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l prune -d 'Also remove the rules of Services that the source does not have'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l with-vip -d 'Also put the VIPs on their interfaces, and announce them: for a node without an agent'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l keep-connections -d 'Leave connections that have the wrong source now; without it they are dropped, to begin anew'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l force -d 'Go on even if an agent (kvctl egress watch) lives on this node, which may undo it, or (--with-vip) a Lease decides who has the VIP'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l lock-timeout -x -d 'How long to wait while another kvctl changes rules'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress apply\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl egress diff
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -s o -l output -x -a 'table wide json yaml iptables' -d 'How to print: table, wide, json, yaml or iptables'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l family -x -a 'ipv4 ipv6' -d 'Which one -o iptables prints'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l prune -d 'Also remove the rules of Services that the source does not have'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l with-vip -d 'Also put the VIPs on their interfaces, and announce them: for a node without an agent'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress diff\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl egress list
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l cluster -d 'Compare with the cluster that is configured'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l watch -d 'Look again and again, with what goes on per second; Ctrl-C ends it'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l interval -x -d 'The time between two looks of --watch'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress list\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl egress show
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l cluster -d 'Compare with the cluster that is configured'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress show\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl egress trace
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l from -x -a '(__kvctl_values addresses)' -d 'The address of the pod'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l pod -x -a '(__kvctl_values pods)' -d 'The pod instead of its address, which comes from -f FILE, the cluster, or else the kernel\'s rules'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l to -x -d 'Where it sends to; IPv6 with port: [DST]:PORT'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l proto -x -a 'tcp udp sctp icmp' -d 'The protocol; icmp is a ping, in IPv6 too'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l source-port -x -d 'The pod\'s own port: the connection it may have is found by it'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l in-interface -x -a '(__kvctl_interfaces)' -d 'The interface the packet comes in by'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress trace\'' -s h -l help -d 'Show this message and exit'

# kvctl egress verify
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\' none' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l from -x -a '(__kvctl_values addresses)' -d 'The address of one pod, instead of a SERVICE'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l to -x -d 'Where an echo answers; IPv6 with port: [HOST]:PORT'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l proto -x -a 'tcp udp both' -d 'The protocol'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l expect -x -d 'The source that has to be seen'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l count -x -d 'How many questions from each pod by each protocol'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l interval -x -d 'The time between two of them'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l timeout -x -d 'How long an answer may take; then it is lost'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l netns -x -d 'The pod\'s network namespace, a process in it, or its name'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l watch -d 'Go on until Ctrl-C; tell each change as it is seen'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l every -x -d 'With --watch: how often the counts are printed where there is no terminal'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress verify\'' -s h -l help -d 'Show this message and exit'

# kvctl egress echo
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l listen -x -d 'Where to listen'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l port -x -d 'The port, of both protocols: one that the Service rewrites'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l tcp -l no-tcp -d 'Answer by TCP'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l udp -l no-udp -d 'Answer by UDP'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l connections -x -d 'So many TCP connections at most: whoever has most of them loses the one that has been idle longest'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -l log -d 'Say each question on standard error'
complete -c kvctl -n '__kvctl_at \'kvctl egress echo\'' -s h -l help -d 'Show this message and exit'

# kvctl egress flush
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -l all -d 'Remove everything that is kvctl\'s'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -l keep-connections -d 'Leave connections that have the wrong source now; without it they are dropped, to begin anew'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -l force -d 'Go on even if an agent (kvctl egress watch) lives on this node, which may undo it'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -l lock-timeout -x -d 'How long to wait while another kvctl changes rules'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'
complete -c kvctl -n '__kvctl_at \'kvctl egress flush\'' -s h -l help -d 'Show this message and exit'

# kvctl egress watch
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l keep-connections -d 'Leave connections that have the wrong source now; without it they are dropped, to begin anew'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l once -d 'Make the rules right once, print what changed, and end: for cron and debugging'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l clean -d 'Remove all rules at the end instead of leaving them to the next agent'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l listen -x -d 'Where metrics, health and the readiness of pods are told; off: nowhere'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l events -l no-events -d 'Tell Services\' states as Kubernetes Events'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l readiness-gates -d 'Set the condition kube-vip.io/egress-enabled of Pods that have it as a readiness gate'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l elect -d 'Contend for the Leases of Services with a pod here, and place the VIPs of those held (serviceElection)'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l log-format -x -d 'How to log: auto (text on a terminal, else json), text or json'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl egress watch\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl egress move
complete -c kvctl -n '__kvctl_at \'kvctl egress move\' none' -a '(__kvctl_values services)'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Where a SERVICE lies that is given by its NAME alone'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -l to -x -a '(__kvctl_values nodes)' -d 'The Node that is to have it'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -l timeout -x -d 'How long to wait for it'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl egress move\'' -s h -l help -d 'Show this message and exit'

# kvctl egress wait
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -l pod -x -d 'The name of the pod that waits'
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -s n -l namespace -x -a '(__kvctl_values namespaces)' -d 'Its namespace'
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -l agent -x -d 'The agent of this node'
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -l timeout -x -d 'How long to wait'
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -l on-timeout -x -a 'fail continue' -d 'What happens then: exit status 1, or a warning and 0'
complete -c kvctl -n '__kvctl_at \'kvctl egress wait\'' -s h -l help -d 'Show this message and exit'

# kvctl doctor
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -s f -l filename -r -F -d 'Read objects from FILE (JSON or YAML, also lists as kubectl prints them; - is standard input), and ask no cluster'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l kubeconfig -r -F -d 'How to reach the cluster'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l context -x -a '(__kvctl_values contexts)' -d 'A context of the kubeconfig'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l cluster -d 'Compare with the cluster that is configured'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -s o -l output -x -a 'table wide json yaml' -d 'How to print: table, wide, json or yaml'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -s h -l help -d 'Show this message and exit'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l pod-cidr -x -d 'A network of pods: only pods in it count, and traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l service-cidr -x -d 'A network of ClusterIPs: traffic to it keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l exclude-cidr -x -d 'A further network, traffic to which keeps its source'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l vip-range -x -d 'Where VIPs may lie that a cluster\'s Service has not in its status, but in an annotation or its spec'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l node -x -a '(__kvctl_values nodes)' -d 'The Node that this host is: only its pods count'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l interface -x -a '(__kvctl_interfaces)' -d 'The interface of Services that name none'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l without-vip -x -a 'drop node-address' -d 'What becomes of traffic where the VIP is not: it is dropped, or leaves with the node\'s address'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l assume-vip -d 'Take the VIP for being here: for load balancers that answer ARP without binding it, or bind it on lo'
complete -c kvctl -n '__kvctl_at \'kvctl doctor\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'

# kvctl lab
complete -c kvctl -n '__kvctl_at \'kvctl lab\'' -a demo -d 'Show what egress does, with real packets; removes what it has built.'
complete -c kvctl -n '__kvctl_at \'kvctl lab\'' -a up -d 'Build the lab and leave it; say what is there.'
complete -c kvctl -n '__kvctl_at \'kvctl lab\'' -a down -d 'Remove the lab that `up` has built.'
complete -c kvctl -n '__kvctl_at \'kvctl lab\'' -a exec -d 'Run CMD inside, with this terminal; its exit status is the answer.'
complete -c kvctl -n '__kvctl_at \'kvctl lab\'' -s h -l help -d 'Show this message and exit'

# kvctl lab demo
complete -c kvctl -n '__kvctl_at \'kvctl lab demo\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'
complete -c kvctl -n '__kvctl_at \'kvctl lab demo\'' -l manifest -d 'Print the Service and Pod that the demo applies, and do nothing'
complete -c kvctl -n '__kvctl_at \'kvctl lab demo\'' -l workers -x -d 'More than one, 5 at most: show a failover instead, with an agent on each (serviceElection)'
complete -c kvctl -n '__kvctl_at \'kvctl lab demo\'' -s h -l help -d 'Show this message and exit'

# kvctl lab up
complete -c kvctl -n '__kvctl_at \'kvctl lab up\'' -l nftables -l no-nftables -d 'Work with iptables-nft, or with iptables-legacy'
complete -c kvctl -n '__kvctl_at \'kvctl lab up\'' -s h -l help -d 'Show this message and exit'

# kvctl lab down
complete -c kvctl -n '__kvctl_at \'kvctl lab down\'' -s h -l help -d 'Show this message and exit'

# kvctl lab exec
complete -c kvctl -n '__kvctl_at \'kvctl lab exec\' none' -a 'pod worker outside peer server'
complete -c kvctl -n '__kvctl_at \'kvctl lab exec\' some' -a '(__fish_complete_command)'
complete -c kvctl -n '__kvctl_at \'kvctl lab exec\'' -s h -l help -d 'Show this message and exit'
