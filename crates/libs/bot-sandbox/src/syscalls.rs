//! The calls that a command confined by landlock may not make: ways around its rules, and doors into the kernel that a
//! build does not need. Everything else is allowed.

use std::{collections::BTreeMap, env::consts::ARCH};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// As if the kernel did not have them; programs know how to do without. A `clone3` hides its flags from the filter, and
/// io_uring opens sockets that the filter does not see. Shared memory and queues of System V and POSIX have one name
/// space for all of a user's programs, and outlive them.
const ABSENT: [i64; 33] = [
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clone3,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_mq_open,
    libc::SYS_msgget,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setns,
    libc::SYS_shmat,
    libc::SYS_shmget,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
];

/// For this thread and all that it starts.
pub(crate) fn restrict(network: bool) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("the filter of system calls: {error}");
    let absent = ABSENT.into_iter().map(|number| (number, Vec::new())).collect();
    for (rules, errno) in [(absent, libc::ENOSYS), (refused(network).map_err(|e| told(&e))?, libc::EACCES)] {
        let program = program(rules, errno as u32).map_err(|e| told(&e))?;
        apply_filter(&program).map_err(|e| told(&e))?;
    }
    Ok(())
}

/// Refused by their arguments.
fn refused(network: bool) -> Result<Rules, seccompiler::BackendError> {
    let rule = |conditions: &[(u8, Op, u64)]| {
        let conditions = conditions.iter().map(|(argument, op, value)| {
            // Only `prlimit64` has a pointer looked at, its third argument.
            let width = if *argument == 2 { Width::Qword } else { Width::Dword };
            SeccompCondition::new(*argument, width, op.clone(), *value)
        });
        SeccompRule::new(conditions.collect::<Result<_, _>>()?)
    };
    let namespace = libc::CLONE_NEWUSER as u64;
    let in_new_user_namespace = rule(&[(0, Op::MaskedEq(namespace), namespace)])?;
    // Landlock does not see who is on the other end of a Unix socket; of the Internet's it sees TCP alone. A pair is
    // joined to itself, but for datagrams, which may be sent to anyone.
    let sockets = if network {
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        vec![rule(&families.map(|family| (0, Op::Ne, family as u64)))?]
    } else {
        Vec::new()
    };
    let datagrams = rule(&[(1, Op::MaskedEq(0xf), libc::SOCK_DGRAM as u64)])?;
    // Of other processes; its own are 0.
    let others_limits = rule(&[(0, Op::Ne, 0), (2, Op::Ne, 0)])?;
    Ok(Rules::from([
        (libc::SYS_clone, vec![in_new_user_namespace.clone()]),
        (libc::SYS_unshare, vec![in_new_user_namespace]),
        (libc::SYS_socket, sockets),
        (libc::SYS_socketpair, vec![datagrams]),
        (libc::SYS_prlimit64, vec![others_limits]),
    ]))
}

fn program(mut rules: Rules, errno: u32) -> Result<BpfProgram, seccompiler::BackendError> {
    if ARCH == "x86_64" {
        // The same calls by the numbers of x32, which some kernels have.
        let again: Rules = rules.iter().map(|(number, rule)| (number | 0x4000_0000, rule.clone())).collect();
        rules.extend(again);
    }
    let arch = TargetArch::try_from(ARCH)?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)?.try_into()
}
