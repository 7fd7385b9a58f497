package lab

// rollout is how a Deployment stands between two steps of a rolling update.
// Pods that are terminating do not count, as in Kubernetes.
type rollout struct {
	want           int // replicas
	maxSurge       int
	maxUnavailable int
	oldReady       int
	oldStarting    int
	newReady       int
	newStarting    int
}

// step says how many pods to create and how many old ones to delete now. It
// is the Deployment controller's arithmetic
// (https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment):
// never more than want + maxSurge pods, never fewer than want - maxUnavailable
// that are ready; old pods that never became ready go first.
func (r rollout) step() (create, del int) {
	old := r.oldReady + r.oldStarting
	fresh := r.newReady + r.newStarting
	if fresh < r.want {
		create = max(0, min(r.want-fresh, r.want+r.maxSurge-old-fresh))
	}
	if old == 0 {
		return create, 0
	}
	// What may go without falling below the floor, counting the new pods that
	// are not ready as missing.
	floor := r.want - r.maxUnavailable
	del = max(0, old+fresh-floor-r.newStarting)
	del = min(del, old)
	// Old pods that are not ready cost nothing; ready ones only above the floor.
	ready := max(0, min(r.oldReady, r.oldReady+r.newReady-floor))
	return create, min(del, r.oldStarting+ready)
}

// done says that nothing is left to do but to wait for old pods to go.
func (r rollout) done() bool {
	return r.oldReady+r.oldStarting == 0 && r.newStarting == 0 && r.newReady == r.want
}
