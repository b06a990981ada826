// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offload is a group of features of a device, as the ethtool ioctl names it.
type Offload uint32

// The offloads that decide what packets look like on a veth. The values are those of
// ETHTOOL_STXCSUM and its siblings in linux/ethtool.h.
const (
	OffloadRX  Offload = 0x15 // receive checksums
	OffloadTX  Offload = 0x17 // transmit checksums; TSO and UDP segmentation need them
	OffloadSG  Offload = 0x19
	OffloadTSO Offload = 0x1f
	OffloadGSO Offload = 0x24
	OffloadGRO Offload = 0x2c
)

// SetOffload switches offloads of a device.
func (n *Namespace) SetOffload(device string, on bool, offloads ...Offload) error {
	return n.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open a socket for ethtool: %w", err)
		}
		for _, o := range offloads {
			value := ethtoolValue{cmd: uint32(o)}
			if on {
				value.data = 1
			}
			if err = ethtool(fd, device, &value); err != nil {
				err = fmt.Errorf("set offload %#x of %s in %s to %t: %w", uint32(o), device, n.Name, on, err)
				break
			}
		}
		return errors.Join(err, unix.Close(fd))
	})
}

// ethtoolValue is struct ethtool_value.
type ethtoolValue struct{ cmd, data uint32 }

// ethtool is SIOCETHTOOL.
func ethtool(fd int, device string, value *ethtoolValue) error {
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the kernel's union
	}
	copy(request.name[:unix.IFNAMSIZ-1], device)
	request.data = unsafe.Pointer(value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
