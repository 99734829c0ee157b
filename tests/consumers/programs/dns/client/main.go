// A consumer: it asks a DNS server for one name again and again, without a cache, and prints a line whenever the SRV records,
// or the addresses, differ from those before. These are three questions, so it keeps their answers apart.
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

// Services is what the SRV records say.
type Services struct {
	// IP:PORT for each of them, by the addresses that come with it.
	Addresses []string `json:"addresses"`
	Targets   []string `json:"targets"`
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

func services(server, name string) (any, error) {
	found := Services{[]string{}, []string{}}
	answer, err := ask(server, name, dns.TypeSRV)
	if err != nil {
		return nil, err
	}
	behind := map[string][]string{}
	for _, record := range answer.Extra {
		switch record := record.(type) {
		case *dns.A:
			behind[record.Hdr.Name] = append(behind[record.Hdr.Name], record.A.String())
		case *dns.AAAA:
			behind[record.Hdr.Name] = append(behind[record.Hdr.Name], "["+record.AAAA.String()+"]")
		}
	}
	for _, record := range answer.Answer {
		if record, ok := record.(*dns.SRV); ok {
			found.Targets = append(found.Targets, record.Target)
			for _, address := range behind[record.Target] {
				found.Addresses = append(found.Addresses, fmt.Sprintf("%s:%d", address, record.Port))
			}
		}
	}
	sort.Strings(found.Addresses)
	sort.Strings(found.Targets)
	return found, nil
}

func hosts(server, name string, kind uint16) (any, error) {
	found := []string{}
	answer, err := ask(server, name, kind)
	if err != nil {
		return nil, err
	}
	for _, record := range answer.Answer {
		switch record := record.(type) {
		case *dns.A:
			found = append(found, record.A.String())
		case *dns.AAAA:
			found = append(found, record.AAAA.String())
		}
	}
	sort.Strings(found)
	return map[string][]string{map[uint16]string{dns.TypeA: "a", dns.TypeAAAA: "aaaa"}[kind]: found}, nil
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client SERVER NAME")
	}
	server, name := os.Args[1], os.Args[2]
	questions := []func() (any, error){
		func() (any, error) { return services(server, name) },
		func() (any, error) { return hosts(server, name, dns.TypeA) },
		func() (any, error) { return hosts(server, name, dns.TypeAAAA) },
	}
	last := make([]string, len(questions))
	for {
		for i, question := range questions {
			found, err := question()
			if err != nil {
				found = map[string]string{"failed": err.Error()}
			}
			line, err := json.Marshal(found)
			if err != nil {
				log.Fatal(err)
			}
			if string(line) != last[i] {
				last[i] = string(line)
				fmt.Println(last[i])
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}
