# SPDX-License-Identifier: Apache-2.0
# For ROS 2 from PyPI wheels only: pass -DCMAKE_PROJECT_INCLUDE=<this file>.
# The wheels' exported targets name include directories of the machine that built them; CMake refuses a
# target whose include directory does not exist. Once everything has been found, the missing ones are dropped.
function(glimpse_drop_missing_include_dirs)
  get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(directories "${target}" INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT directories)
      continue()
    endif()
    set(kept "")
    foreach(directory IN LISTS directories)
      if(NOT IS_ABSOLUTE "${directory}" OR EXISTS "${directory}")
        list(APPEND kept "${directory}")
      endif()
    endforeach()
    set_target_properties("${target}" PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL glimpse_drop_missing_include_dirs)
