//go:build linux
package lab
import ("testing";"time";"os";"fmt";"math/rand/v2")
func TestDbg(t *testing.T){
	mark := fmt.Sprint(rand.Uint64())
	t.Setenv(markVar, mark)
 l := up(t, topology(t, os.Getenv("FAM"), service("none","tcp",0), service("web", "tcp", 1)))
	fmt.Println("node", pidsOf(t, mark, "--host\x00node1"), "client", pidsOf(t, mark, "--host\x00client"), l.Services())
 time.Sleep(40*time.Second)
}
