// SPDX-License-Identifier: Apache-2.0

package etcd

// DieBefore makes a writer lose its connection before a step of a large change set.
func (s *Store) DieBefore(step string) {
	s.step = func(now string) {
		if now == step {
			_ = s.client.Close()
		}
	}
}

// KeepLogs sets how many change sets an agent may be behind.
func (s *Store) KeepLogs(n uint64) { s.keptLogs = n }
