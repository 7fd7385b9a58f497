package proxy

import (
	"context"
	"errors"

	"github.com/tablefull/tablefull/runner/env"
)

func openKubeProxy(context.Context, env.ProxyJob, env.Recorder) (dataplane, error) {
	return nil, errors.New("start kube-proxy: not in this version")
}
