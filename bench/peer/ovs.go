// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// OVS is Open vSwitch with its userspace datapath and connection tracking. The processes are ours, with files of
// their own; the system's, if one runs, is not touched.
type OVS struct{}

// Name implements Subject.
func (OVS) Name() string { return "ovs-userspace" }

const (
	ovsSchema = "/usr/share/openvswitch/vswitch.ovsschema"
	ovsLimit  = 20 * time.Second // for a process to be ready
	ovsBridge = "br0"
	ovsOuter  = "br-out"
)

// Port numbers in OpenFlow: of the uplink, of the tunnel, of ENI 0.
const (
	ovsUplink = 1
	ovsTunnel = 2
	ovsENI    = 10
)

// ovs is Open vSwitch at work.
type ovs struct {
	job       *Job
	processes []*exec.Cmd
}

// Start implements Subject.
func (OVS) Start(ctx context.Context, j *Job) (Running, error) {
	if err := need("ovsdb-server", "ovs-vswitchd", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl"); err != nil {
		return nil, err
	}
	o := &ovs{job: j}
	if err := o.start(ctx); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

func (o *ovs) path(name string) string { return filepath.Join(o.job.Dir, name) }
func (o *ovs) db() string              { return "unix:" + o.path("db.sock") }

func (o *ovs) run(ctx context.Context, input string, command ...string) error {
	_, err := Run(ctx, o.job.Host, input, append([]string{"env", "OVS_RUNDIR=" + o.job.Dir}, command...)...)
	return err
}

func (o *ovs) start(ctx context.Context) error {
	if err := o.run(ctx, "", "ovsdb-tool", "create", o.path("conf.db"), ovsSchema); err != nil {
		return err
	}
	if err := o.spawn("ovsdb-server", o.path("conf.db"), "--remote=p"+o.db()); err != nil {
		return err
	}
	if err := o.await(ctx, "db.sock"); err != nil {
		return err
	}
	if err := o.run(ctx, "", "ovs-vsctl", "--db="+o.db(), "--no-wait", "init"); err != nil {
		return err
	}
	if err := o.spawn("ovs-vswitchd", o.db()); err != nil {
		return err
	}
	if err := o.await(ctx, "ovs-vswitchd.ctl"); err != nil {
		return err
	}
	if err := o.run(ctx, "", append([]string{"ovs-vsctl", "--db=" + o.db(), "--timeout=60"}, o.bridges()...)...); err != nil {
		return err
	}
	if o.job.RemoteVTEP.IsValid() {
		if err := o.tunnel(ctx); err != nil {
			return err
		}
	}
	return o.run(ctx, ovsFlows(o.job), "ovs-ofctl", "-O", "OpenFlow13", "add-flows", "unix:"+o.path(ovsBridge+".mgmt"), "-")
}

// spawn starts a process of Open vSwitch inside the host. Its pid file lets a later run find it if we are killed.
func (o *ovs) spawn(program string, args ...string) error {
	log, err := os.Create(o.path(program + ".log"))
	if err != nil {
		return fmt.Errorf("make a log for %s: %w", program, err)
	}
	defer log.Close()
	args = append(args, "--pidfile="+o.path(program+".pid"), "--unixctl="+o.path(program+".ctl"), "-vconsole:warn", "-vsyslog:off")
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, o.job.Dir
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+o.job.Dir, "OVS_LOGDIR="+o.job.Dir, "OVS_DBDIR="+o.job.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := o.job.Host.Do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	o.processes = append(o.processes, cmd)
	return nil
}

// await waits for a socket of a process that starts.
func (o *ovs) await(ctx context.Context, socket string) error {
	for end := time.Now().Add(ovsLimit); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(o.path(socket)); err == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if time.Now().After(end) {
			log, _ := os.ReadFile(o.path("ovs-vswitchd.log")) // the reason, if there is one
			return fmt.Errorf("open vSwitch makes no %s within %s:\n%s", socket, ovsLimit, firstLines(string(log), 10))
		}
	}
}

// bridges are the arguments of ovs-vsctl that make everything.
func (o *ovs) bridges() []string {
	bridge := func(name string) []string {
		return []string{"--", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail-mode=secure"}
	}
	port := func(br, name string, number int, more ...string) []string {
		args := []string{"--", "add-port", br, name, "--", "set", "interface", name, "ofport_request=" + strconv.Itoa(number)}
		return append(args, more...)
	}
	args := bridge(ovsBridge)[1:]
	if j := o.job; j.RemoteVTEP.IsValid() {
		args = append(args, bridge(ovsOuter)...)
		args = append(args, "--", "set", "bridge", ovsOuter, "other-config:hwaddr="+macText(j.Uplink.MAC))
		args = append(args, port(ovsOuter, j.Uplink.Name, ovsUplink)...)
		args = append(args, port(ovsBridge, vxlanDevice, ovsTunnel, "type=vxlan", "options:remote_ip="+j.RemoteVTEP.String(),
			"options:local_ip="+j.VTEP().String(), fmt.Sprintf("options:key=%d", j.VNI))...)
	} else {
		args = append(args, port(ovsBridge, j.Uplink.Name, ovsUplink)...)
	}
	for i, e := range o.job.ENIs {
		args = append(args, port(ovsBridge, e.Port.Name, ovsENI+i)...)
	}
	return args
}

// tunnel gives the outer bridge the host's address and tells where the other host is.
func (o *ovs) tunnel(ctx context.Context) error {
	j := o.job
	if err := Address(j.Host, ovsOuter, j.Addrs[0]); err != nil {
		return err
	}
	if err := Up(j.Host, ovsOuter); err != nil {
		return err
	}
	flows := fmt.Sprintf("in_port=%d,actions=LOCAL\nin_port=LOCAL,actions=output:%d\n", ovsUplink, ovsUplink)
	if err := o.run(ctx, flows, "ovs-ofctl", "-O", "OpenFlow13", "add-flows", "unix:"+o.path(ovsOuter+".mgmt"), "-"); err != nil {
		return err
	}
	control := []string{"ovs-appctl", "--target=" + o.path("ovs-vswitchd.ctl")}
	if err := o.run(ctx, "", append(control, "ovs/route/add", j.Addrs[0].Masked().String(), ovsOuter)...); err != nil {
		return err
	}
	return o.run(ctx, "", append(control, "tnl/neigh/set", ovsOuter, j.RemoteVTEP.String(), macText(j.GatewayMAC))...)
}

// CPUTime implements Running.
func (o *ovs) CPUTime() (time.Duration, error) {
	var sum time.Duration
	for _, p := range o.processes {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Process.Pid))
		if err != nil {
			return 0, fmt.Errorf("list the threads of %s: %w", p.Path, err)
		}
		for _, task := range tasks {
			data, err := os.ReadFile(task)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				continue // that thread has ended
			}
			if err != nil {
				return 0, fmt.Errorf("read the CPU time of %s: %w", p.Path, err)
			}
			word, _, _ := strings.Cut(string(data), " ")
			ns, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the CPU time of %s: %w", p.Path, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

// Close implements Running: the last process started ends first.
func (o *ovs) Close() error {
	var errs []error
	for i := len(o.processes) - 1; i >= 0; i-- {
		errs = append(errs, stop(o.processes[i]))
	}
	o.processes = nil
	return errors.Join(errs...)
}

// stop ends a process that we started and waits until it is gone.
func stop(cmd *exec.Cmd) error {
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended does not matter
		close(done)
	}()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end %s: %w", cmd.Path, err)
		}
		select {
		case <-done:
			return nil
		case <-time.After(3 * time.Second):
		}
	}
	return fmt.Errorf("end %s: process %d does not end", cmd.Path, cmd.Process.Pid)
}
