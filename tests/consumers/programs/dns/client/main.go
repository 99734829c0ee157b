// A consumer: it asks a DNS server for one name again and again, without a cache, and prints a line whenever the answers
// differ from those before.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"time"

	"github.com/miekg/dns"
)

// View is what the server says about the name.
type View struct {
	// IP:PORT for each SRV record, by the addresses that come with it.
	Addresses []string `json:"addresses"`
	A         []string `json:"a"`
	AAAA      []string `json:"aaaa"`
	// Of the SRV records.
	Targets []string `json:"targets"`
}

func ask(server, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, kind)
	question.SetEdns0(4096, false)
	answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(question, server)
	if err != nil {
		return nil, err
	}
	if answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
		return nil, fmt.Errorf("%s says %s", server, dns.RcodeToString[answer.Rcode])
	}
	return answer, nil
}

func look(server, name string) (View, error) {
	view := View{[]string{}, []string{}, []string{}, []string{}}
	srv, err := ask(server, name, dns.TypeSRV)
	if err != nil {
		return view, err
	}
	behind := map[string][]string{}
	for _, record := range srv.Extra {
		switch record := record.(type) {
		case *dns.A:
			behind[record.Hdr.Name] = append(behind[record.Hdr.Name], record.A.String())
		case *dns.AAAA:
			behind[record.Hdr.Name] = append(behind[record.Hdr.Name], "["+record.AAAA.String()+"]")
		}
	}
	for _, record := range srv.Answer {
		if record, ok := record.(*dns.SRV); ok {
			view.Targets = append(view.Targets, record.Target)
			for _, address := range behind[record.Target] {
				view.Addresses = append(view.Addresses, fmt.Sprintf("%s:%d", address, record.Port))
			}
		}
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := ask(server, name, kind)
		if err != nil {
			return view, err
		}
		for _, record := range answer.Answer {
			switch record := record.(type) {
			case *dns.A:
				view.A = append(view.A, record.A.String())
			case *dns.AAAA:
				view.AAAA = append(view.AAAA, record.AAAA.String())
			}
		}
	}
	for _, list := range [][]string{view.Addresses, view.A, view.AAAA, view.Targets} {
		sort.Strings(list)
	}
	return view, nil
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client SERVER NAME")
	}
	last := ""
	for {
		view, err := look(os.Args[1], os.Args[2])
		var line []byte
		if err != nil {
			line, err = json.Marshal(map[string]string{"failed": err.Error()})
		} else {
			line, err = json.Marshal(view)
		}
		if err != nil {
			log.Fatal(err)
		}
		if string(line) != last {
			last = string(line)
			fmt.Println(last)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
