// A vCenter whose hosts do nothing: govmomi's simulator, as Debian has its sources.
//
// vcsimx USER PASSWORD SCHEME DATACENTERS HOSTS VMS: says "ready HOST:PORT FOLDER", where FOLDER has the datastores'
// files, when it listens on loopback; ends with its input.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vmware/govmomi/simulator"
)

func number(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	log.SetOutput(ioutil.Discard)
	m := simulator.VPX()
	// What is not named is the only one there is, unless there are several hosts beside the cluster.
	m.Portgroup, m.Autostart = 0, false
	m.Datacenter, m.Host, m.Machine = number(4), number(5), number(6)
	if err := m.Create(); err != nil {
		panic(err)
	}
	if number(6) > 100 {
		// A crowd has names like those of kola's machines.
		for i, vm := range simulator.Map.All("VirtualMachine") {
			vm.(*simulator.VirtualMachine).Name = fmt.Sprintf("kola-01234567-89ab-4def-8123-%012d-0123456789", i)
		}
	}
	if os.Args[3] == "https" {
		m.Service.TLS = new(tls.Config)
	}
	m.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(os.Args[1], os.Args[2])}
	m.Service.RegisterEndpoints = true
	s := m.Service.NewServer()
	store := simulator.Map.Any("Datastore").(*simulator.Datastore)
	fmt.Printf("ready %s %s\n", s.URL.Host, filepath.Clean(store.Info.GetDatastoreInfo().Url))
	_, _ = io.Copy(ioutil.Discard, os.Stdin)
	s.Close()
	m.Remove()
}
