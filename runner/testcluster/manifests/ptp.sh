#!/bin/sh
# The plugin ptp, in a namespace where addresses of IPv6 are usable at once: that
# nobody else has them is known, and to find it out takes a second for each pod.
if [ "$CNI_COMMAND" = ADD ]; then
	nsenter --net="$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad' || exit 1
fi
exec {{.}}/ptp
