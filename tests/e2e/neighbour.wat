;; Another plugin in the same proxy. It writes into Envoy's shared data what a request tells it to:
;; header `neighbour-key` names the key, `neighbour-value` is the value in hexadecimal. Such a request
;; it answers itself, with 204; all others it leaves alone.
(module
  (import "env" "proxy_get_header_map_value"
    (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data"
    (func $write (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 4)
  (data (i32.const 0) "neighbour-key")
  (data (i32.const 32) "neighbour-value")
  ;; Where the host writes what it returns: key at 64, its length at 68, value at 72, its length at 76.

  (global $heap (mut i32) (i32.const 1024))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))

  ;; What the host allocates is needed until the request is answered, so there is nothing to free.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    (local.get $at))

  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (local $value i32) (local $length i32) (local $at i32)
    (global.set $heap (i32.const 1024))
    (if (call $header (i32.const 0) (i32.const 0) (i32.const 13) (i32.const 64) (i32.const 68))
      (then (return (i32.const 0))))
    (if (call $header (i32.const 0) (i32.const 32) (i32.const 15) (i32.const 72) (i32.const 76))
      (then (return (i32.const 0))))
    (local.set $value (i32.load (i32.const 72)))
    (local.set $length (i32.shr_u (i32.load (i32.const 76)) (i32.const 1)))
    ;; In place: a byte is written where its two digits were read, or before.
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $length)))
        (i32.store8
          (i32.add (local.get $value) (local.get $at))
          (i32.or
            (i32.shl
              (call $digit (i32.load8_u
                (i32.add (local.get $value) (i32.shl (local.get $at) (i32.const 1)))))
              (i32.const 4))
            (call $digit (i32.load8_u offset=1
              (i32.add (local.get $value) (i32.shl (local.get $at) (i32.const 1)))))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    ;; By number 0, which overwrites whatever is there.
    (drop (call $write
      (i32.load (i32.const 64)) (i32.load (i32.const 68))
      (local.get $value) (local.get $length) (i32.const 0)))
    (drop (call $answer (i32.const 204) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const -1)))
    (i32.const 1))

  (func $digit (param $char i32) (result i32)
    (if (result i32) (i32.gt_u (local.get $char) (i32.const 57))
      (then (i32.sub (local.get $char) (i32.const 87)))
      (else (i32.sub (local.get $char) (i32.const 48)))))
)
