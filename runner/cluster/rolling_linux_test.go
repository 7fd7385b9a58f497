//go:build linux

package cluster_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// watchProxies watches kube-proxy's pods until what it returns is called, which
// returns the sets of nodes that had a ready one.
func (s setup) watchProxies(t *testing.T) func() map[string]bool {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	require.NoError(t, err)
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	pods := client.CoreV1().Pods("kube-system")
	list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=kube-proxy"})
	require.NoError(t, err)
	now := map[types.UID]corev1.Pod{}
	for _, p := range list.Items {
		now[p.UID] = p
	}
	w, err := pods.Watch(t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=kube-proxy", ResourceVersion: list.ResourceVersion})
	require.NoError(t, err)
	done := make(chan map[string]bool, 1)
	var stopped atomic.Bool
	go func() {
		moments := map[string]bool{ready(now): true}
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok && stopped.Load() {
				continue // that its connection was cut, which a watch may still say
			}
			if !ok {
				moments[fmt.Sprintf("%T", e.Object)] = true // which no test expects
				continue
			}
			if now[p.UID] = *p; e.Type == watch.Deleted {
				delete(now, p.UID)
			}
			moments[ready(now)] = true
		}
		done <- moments
	}()
	return func() map[string]bool {
		stopped.Store(true)
		w.Stop()
		return <-done
	}
}

// ready are the nodes that have a pod which is ready and is to stay.
func ready(pods map[types.UID]corev1.Pod) string {
	var out []string
	for _, node := range []string{"node-a", "node-b"} {
		for _, p := range pods {
			if p.Spec.NodeName != node || p.DeletionTimestamp != nil {
				continue
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					out = append(out, node)
				}
			}
		}
	}
	return strings.Join(out, " ")
}
