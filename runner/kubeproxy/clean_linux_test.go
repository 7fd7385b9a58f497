package kubeproxy

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// What kube-proxy 1.36.3 in mode ipvs leaves after --cleanup, and what it has before.
func TestWhatIsLeftAfterACleanup(t *testing.T) {
	const before = `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
COMMIT
`
	const after = `*nat
:PREROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A POSTROUTING -s 10.0.0.0/8 -m comment --comment "-j KUBE" -j MASQUERADE
COMMIT
`
	assert.Regexp(t, kubeJump, before)
	assert.NotRegexp(t, kubeJump, after)
	const header = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
	assert.NotRegexp(t, virtualServer, header)
	assert.Regexp(t, virtualServer, header+"TCP  0A60000A:0050 rr \n  -> 0AF40002:0050      Masq    1      0          0         \n")
}
