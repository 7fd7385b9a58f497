// Package testcluster starts a real Kubernetes on this machine, for tests and
// for trying things: `make cluster`. There is no virtual machine and no
// container engine around it. It needs root, Linux, and the programs etcd,
// containerd, runc, ctr, nft, iptables and the plugins of CNI.
//
// It has three hosts, each a network and a mount namespace: control (etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler), which is also the
// router between the others, and two nodes (containerd, kubelet). kube-proxy
// is a DaemonSet in kube-system, as kubeadm has it. Each host's connection
// tracking is its own; the limit of entries is the machine's.
//
// All processes, pods' too, are in one PID namespace, and all mounts in mount
// namespaces of its processes. The kernel ends and unmounts all of it when the
// first process of that namespace ends, whoever ends it. What is left then is
// one directory, one link, and one control group, whose names follow from the
// directory's: [Down] removes them, also after a crash, a kill, or a reboot.
package testcluster
