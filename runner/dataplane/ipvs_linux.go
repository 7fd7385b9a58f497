package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/moby/ipvs"

	"github.com/tablefull/tablefull/report/runlog"
)

// readIPVS reads all virtual servers and what is behind them.
func readIPVS() (table, error) {
	h, err := ipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	defer h.Close()
	services, err := h.GetServices()
	if err != nil {
		return nil, fmt.Errorf("list virtual servers: %w", err)
	}
	t := table{}
	for _, s := range services {
		addr, ok := netip.AddrFromSlice(s.Address)
		if !ok {
			continue // by firewall mark: not a service address
		}
		servers, err := h.GetDestinations(s)
		if err != nil {
			return nil, fmt.Errorf("list real servers: %w", err)
		}
		k := target{netip.AddrPortFrom(addr.Unmap(), s.Port), uint8(s.Protocol)}
		for _, d := range servers {
			a, _ := netip.AddrFromSlice(d.Address)
			t[k] = append(t[k], runlog.ProgrammedBackend{
				Addr: netip.AddrPortFrom(a.Unmap(), d.Port), Weight: d.Weight,
				Active: uint64(max(0, d.ActiveConnections)), Inactive: uint64(max(0, d.InactiveConnections)),
			})
		}
	}
	return t, nil
}
