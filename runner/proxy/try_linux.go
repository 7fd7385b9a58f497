package proxy

import (
	"context"
	"net/netip"

	"github.com/tablefull/tablefull/report/runlog"
	"github.com/tablefull/tablefull/runner/env"
)

// Try programs each kind of rule the built-in proxy may need in mode nftables,
// in both families, in this thread's network namespace, and leaves them there.
func Try() error {
	for _, p := range []nft{
		{masquerade: true, clients: netip.MustParsePrefix("10.128.0.0/16"), vips: netip.MustParsePrefix("10.96.0.0/16")},
		{masquerade: true, clients: netip.MustParsePrefix("fd00:128::/112"), vips: netip.MustParsePrefix("fd00:96::/112"), ipv6: true},
	} {
		end := p.clients.Addr().Next()
		err := p.sync(context.Background(), []env.ServiceState{{
			Name: "probe", Addr: p.vips.Addr().Next(), Protocol: "tcp", Port: 1, Ports: 1,
			Endpoints: []runlog.EndpointState{{Addr: end, Ready: true}, {Addr: end.Next(), Ready: true}},
		}})
		if err != nil {
			return err
		}
	}
	return nil
}
